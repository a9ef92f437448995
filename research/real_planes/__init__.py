"""The phantom compared with real SWI: slices and planes through microbleeds of a public set, which the project does not carry."""
