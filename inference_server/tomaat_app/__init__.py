"""Behind `inference_server.tomaat`: a TOMAAT app of a user's script, made a model and served."""
