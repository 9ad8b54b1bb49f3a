"""What providers and their authors test with: conformance suite, simulated backend, fakes."""
