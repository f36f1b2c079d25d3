"""Ways of choosing channels, one file each.

Owns all that depends on the way: its flags, the channels that are read of a store, the inputs of
the network, the bytes that are sent, the label in a table; and the gate. It never knows a task,
trains or evaluates; a new way is one more file and a line in the registry.
"""
