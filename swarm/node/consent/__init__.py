"""What this site takes part in: its policy, a dry run, and a second person's word."""
