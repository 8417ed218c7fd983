"""Features that several metrics share: landmarks, face embeddings, voice activity, spectra."""
