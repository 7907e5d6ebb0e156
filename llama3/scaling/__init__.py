"""What a model costs to train, told before it is trained: layouts of a mesh, memory, time and money."""
