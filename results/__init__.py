"""Published figures of the papers, one specification a paper table, and our own measurements."""
