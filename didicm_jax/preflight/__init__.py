"""A run's programs compiled for devices that are not there: whether they fit, and what they cost.

`topologies` describes the devices, `program` compiles for them, `hlo` reads what the compiler made
of it, `estimate` puts it into numbers.
"""
