"""Where pictures come from by themselves: watched folders and cameras."""
