"""The federation benchmark: peers and this project on five tasks, scored by one classifier."""
