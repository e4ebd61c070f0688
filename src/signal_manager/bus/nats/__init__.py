"""The NATS adapter: several nodes as one service."""
