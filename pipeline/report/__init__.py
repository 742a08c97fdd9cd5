"""What people look at: pictures of kept patches."""
