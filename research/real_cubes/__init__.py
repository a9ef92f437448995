"""Real microbleeds given to a release's networks: three planes through each, of a public set, assembled into a cube."""
