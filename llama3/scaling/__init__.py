"""What training costs and what it buys: scaling laws, forecasts, and plans. Torch-free."""
