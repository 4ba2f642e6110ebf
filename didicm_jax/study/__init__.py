"""Many runs against each other: methods, axes, cells and what they found."""
