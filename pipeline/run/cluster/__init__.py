"""Starts or joins Ray and decides what each stage books there."""
