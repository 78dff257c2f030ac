"""Training: data sets -> model -> loss -> trainer -> checkpoint. Run from a checkout: `python -m train CONFIG --data DIR`."""
