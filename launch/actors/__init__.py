"""What steps host environments: one actor, pools of threads, Ray actors."""
