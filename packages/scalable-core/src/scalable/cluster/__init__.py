"""The engine: worker groups that start, heal, adapt, drain and end, the same on every backend."""
