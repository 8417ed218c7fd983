"""Limits on what a file of others may cost: bytes, pixels, seconds and entries.

Every limit is checked before the memory or the time is spent.
"""

# Pictures and video
MAX_IMAGE_BYTES = 1 << 29
"""Largest image file, in bytes."""
MAX_IMAGE_PIXELS = 100_000_000
"""Largest image, in pixels as decoded: a JPEG is decoded at a half, fourth or eighth where that is enough."""
MAX_IMAGE_MEMORY = 1 << 30
"""Most memory that decoding an image may take, in bytes, by its header."""
MAX_IMAGE_SIDE = 4096
"""Side in pixels to which larger images are shrunk before the face is detected."""
MAX_FRAME_PIXELS = 8192 * 4320
"""Maximum frame size: no camera records larger frames, and one frame would take 100 MB."""
MAX_VIDEO_BYTES = 8 * 2**30
"""Memory limit of `read_video`; `iter_frames` streams any length."""
MAX_CLIP_FRAMES = 3000
"""Largest number of frames: a clip is in memory as a whole."""

# Sound and length
MAX_AUDIO_SECONDS = 4 * 3600
"""Longest segment, in seconds: 4 hours at 16 kHz are 0.9 GB of samples."""
MAX_PAUSE_SECONDS = 600.0
"""Longest pause between two time stamps that is filled with silence, or with the frame before it, in seconds."""
MAX_LOST_AUDIO_SHARE = 0.25
"""Largest share of a sound that may be missing because it cannot be decoded."""
MAX_VIDEO_SECONDS = 4 * 3600.0
"""Longest generated video, in seconds."""
MAX_SOURCE_SECONDS = 12 * 3600.0
"""Longest source video that is prepared, in seconds."""

# Text
MAX_PROMPT_CHARS = 4096
"""Longest prompt, in characters."""
MAX_CAPTION_BYTES = 16_384
"""Largest caption file, in bytes."""
MAX_LINE_CHARS = 1 << 16
"""Longest line of a manifest or list, in characters."""
MAX_MANIFEST_BYTES = 1 << 30
"""Largest manifest or list of rejections, in bytes: about two million clips."""
MAX_TIME_RANGES_BYTES = 1 << 26
"""Largest list of time ranges, in bytes."""
MAX_SENTENCES_BYTES = 1_000_000
"""Largest list of sentences to speak, in bytes."""
MAX_SENTENCES = 10_000
"""Largest number of sentences in a list."""
MAX_JSON_BYTES = 1 << 26
"""Largest JSON file that has no limit of its own, in bytes."""
MAX_YAML_BYTES = 1 << 20
"""Largest configuration file, in bytes."""
MAX_YAML_NODES = 10_000
"""Largest number of keys and values of a configuration after its aliases are expanded."""
MAX_NESTING = 32
"""Deepest nesting of lists and objects in JSON and YAML."""
MAX_NUMBER_DIGITS = 300
"""Most digits of an integer in JSON and YAML; what has more is larger than any floating-point number."""

# Weights and features
MAX_PICKLE_BYTES = 16 * 2**30
"""Largest pickle that is read, in bytes; it is read into memory whole. A released adapter has 1.7 GB."""
MAX_FEATURE_BYTES = 1 << 30
"""Maximum size of a feature file; the latents of 1201 frames of 720x1280 take 140 MB."""
MAX_HASHED_BYTES = 64 << 20
"""Files up to this size are hashed by content, larger ones by name and size."""

MAX_UNPACKED_RATIO = 4
"""Most bytes of tensors per byte of a torch file, which is not compressed when torch writes it."""
MAX_ARCHIVE_ENTRIES = 100_000
"""Most entries of a torch file, one per tensor; the largest known checkpoint has about 2,000."""
MAX_MODEL_CONFIG_BYTES = 1 << 20
"""Largest configuration of a component of others (`config.json`, `tokenizer_config.json`), in bytes."""
MAX_CONFIG_NUMBER = 1 << 20
"""Largest number in the configuration of a model: sizes, layers, tokens; umT5's vocabulary has 256,384."""

# Records and results
MAX_RECORD_BYTES = 1 << 20
"""Largest record (`.json`) of a generated video, in bytes."""
MAX_MEASUREMENT_BYTES = 1 << 28
"""Largest file of stored measurements, in bytes."""
MAX_RESULTS_BYTES = 1 << 26
"""Largest results.json, in bytes."""
MAX_PROTOCOL_BYTES = 1 << 26
"""Largest benchmark manifest, in bytes."""
MAX_BENCHMARK_CLIPS = 100_000
"""Largest number of clips in a benchmark."""
MAX_TRUTH_BYTES = 1 << 26
"""Largest ground-truth file, in bytes."""
