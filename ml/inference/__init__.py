"""From a volume to a prediction: preprocessing, engines, predictor, lesions."""
