"""The capacity planner: what a job will take, from the footers of a smaller one."""
