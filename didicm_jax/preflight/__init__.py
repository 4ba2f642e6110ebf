"""A run's programs compiled for devices that are not there: whether they fit, and what they cost.

`topologies` describes the devices, `program` compiles for them, `hlo` reads what the compiler made
of it. `execution` says what is carried out and how often, `traffic` what that reads and writes,
`origin` where it comes from. `estimate` puts it into numbers.
"""
