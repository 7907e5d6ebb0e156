"""What training costs and what it buys: scaling laws and forecasts, layouts of a mesh, memory, time and money."""
