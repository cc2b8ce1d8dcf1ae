"""Recordings with known texts in, word errors with every figure behind them out."""
