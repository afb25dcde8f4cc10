"""What was found: metrics, records, statistics, leaderboards. Imports none of the other folders."""
