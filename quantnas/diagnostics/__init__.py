"""What this machine can do: versions, resources, one small export of every form."""
