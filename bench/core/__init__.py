"""The ground floor: what everything else stands on; imports nothing of ours."""
