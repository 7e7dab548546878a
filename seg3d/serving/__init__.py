"""The web app of a trained model: uploads that are not trusted, one queue, one model, results that are forgotten."""
