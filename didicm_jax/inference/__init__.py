"""From a trained network and a sampler to posteriors."""
