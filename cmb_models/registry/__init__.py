"""Release registry: registration in MLflow, promotion and rollback of roles, and the audit log.

mlflow is imported inside functions, so that `cmb --help` stays quick.
"""
