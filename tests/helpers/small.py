"""One small run, the same in many tests, so that its programs are compiled once."""

SMALL = """
steps: 1200
warmup_steps: 80
log_every: 100
evaluate_every: 400
evaluation_episodes: 4
evaluation_max_steps: 50
checkpoint_every: 400
agent: {name: dqn, batch_size: 8, network: {hidden: [8]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
replay: {capacity: 2000}
"""
