"""The routes of the studio's API, a file each for what belongs together."""
