"""What a run leaves behind: its record, its scores, and the statistics made of them. No torch."""
