"""Limits on what files and requests of others may cost: bytes, pixels, seconds and entries.

Every limit is checked before the memory or the time is spent. `docs/troubleshooting.md` lists them; a test compares.
"""

# Pictures
MAX_IMAGE_BYTES = 1 << 29
"""Largest image file."""
MAX_IMAGE_PIXELS = 100_000_000
"""Largest image as it is decoded: a JPEG is decoded at a half, fourth or eighth where that is enough."""
MAX_IMAGE_MEMORY_BYTES = 1 << 30
"""Most memory that decoding an image may take, by its header."""
MAX_IMAGE_SIDE = 4096
"""Side in pixels to which larger portraits are shrunk, before the face is detected."""

# Video
MAX_FRAME_PIXELS = 8192 * 4320
"""Largest frame: no camera records larger ones, and one would take 100 MB."""
MAX_FPS = 240.0
"""Highest frame rate that is read or written."""
MAX_VIDEO_BYTES = 1 << 33
"""Most memory of the frames that are read at once; streaming has no limit of length."""
MAX_CLIP_FRAMES = 3000
"""Most frames of a clip that is in memory as a whole."""
MAX_SOURCE_SECONDS = 12 * 3600.0
"""Longest video that is prepared for training."""
MAX_PREVIEW_FPS = 50.0
"""Highest frame rate of an animated preview: browsers slow down frames of less than 20 ms."""
MAX_PREVIEW_FRAMES = 1000
"""Most frames of an animated preview."""
MAX_PREVIEW_BYTES = 1 << 31
"""Most memory of the frames of an animated preview."""

# Sound and length
MAX_AUDIO_SECONDS = 4 * 3600
"""Longest sound: 4 hours at 16 kHz are 0.9 GB of samples."""
MAX_PAUSE_SECONDS = 600.0
"""Longest pause between two time stamps that is filled with silence, or with the frame before it."""
MAX_LOST_AUDIO_SHARE = 0.25
"""Largest share of a sound that may be missing because it cannot be decoded."""
MAX_VIDEO_SECONDS = 4 * 3600.0
"""Longest generated video."""

# Text
MAX_PROMPT_CHARS = 4096
"""Longest prompt."""
MAX_CAPTION_BYTES = 1 << 14
"""Largest caption file."""
MAX_LINE_CHARS = 1 << 16
"""Longest line of a manifest or list."""
MAX_MANIFEST_BYTES = 1 << 30
"""Largest manifest or list of rejections: about two million clips."""
MAX_TIME_RANGES_BYTES = 1 << 26
"""Largest list of time ranges."""
MAX_SENTENCES_BYTES = 1_000_000
"""Largest list of sentences for the portrait world."""
MAX_SENTENCES = 10_000
"""Most sentences in a list."""
MAX_JSON_BYTES = 1 << 26
"""Largest JSON file that has no limit of its own."""
MAX_YAML_BYTES = 1 << 20
"""Largest configuration file."""
MAX_YAML_NODES = 10_000
"""Most keys and values of a configuration, after its aliases are expanded."""
MAX_NESTING = 32
"""Deepest nesting of lists and objects in JSON and YAML."""
MAX_NUMBER_DIGITS = 300
"""Most digits of an integer in JSON and YAML; more are beyond every floating-point number."""

# Weights and features
MAX_PICKLE_BYTES = 1 << 34
"""Largest pickle; it is read into memory whole. A released adapter has 1.7 GB."""
MAX_ONNX_BYTES = 1 << 30
"""Largest ONNX network; the largest known face network (glint360k r100) has 261 MB."""
MAX_ENCODER_BYTES = 1 << 28
"""Largest weights of an expression encoder."""
MAX_ENCODER_CONFIG_BYTES = 1 << 16
"""Largest config.json of an expression encoder."""
MAX_FEATURE_BYTES = 1 << 30
"""Largest feature file; the latents of 1201 frames of 720x1280 take 140 MB."""
MAX_CONDITION_BYTES = 1 << 24
"""Largest file of a registered condition."""
MAX_HASHED_BYTES = 1 << 26
"""Files up to this size are hashed by content, larger ones by name and size."""

MAX_GGUF_HEADER_BYTES = 1 << 24
"""Largest header of a GGUF file: names, shapes and metadata; that of umT5 with its vocabulary has about 6 MB."""
MAX_QUANTIZATION_JSON_BYTES = 1 << 20
"""Largest description of a file's quantization (JSON of ComfyUI), in bytes."""
MAX_UNPACKED_RATIO = 4
"""Most bytes of tensors per byte of a torch file, which is not compressed when torch writes it."""
MAX_ARCHIVE_ENTRIES = 100_000
"""Most entries of a torch file, one per tensor; the largest known checkpoint has about 2,000."""
MAX_MODEL_CONFIG_BYTES = 1 << 20
"""Largest configuration of a component of others (`config.json`, `tokenizer_config.json`), in bytes."""
MAX_TOKENIZER_BYTES = 1 << 25
"""Largest tokenizer of a text encoder (SentencePiece); umT5's has 4.5 MB."""
MAX_CONFIG_NUMBER = 1 << 20
"""Largest number in the configuration of a model: sizes, layers, tokens; umT5's vocabulary has 256,384."""

# Records and results
MAX_RECORD_BYTES = 1 << 20
"""Largest record (`.json`) of a generated video."""
MAX_MEASUREMENT_BYTES = 1 << 28
"""Largest file of stored measurements, as stored and as unpacked."""
MAX_RESULTS_BYTES = 1 << 26
"""Largest results.json."""
MAX_PROTOCOL_BYTES = 1 << 26
"""Largest benchmark manifest."""
MAX_BENCHMARK_CLIPS = 100_000
"""Most clips of a benchmark."""
MAX_BENCHMARK_SIDE = 4096
"""Largest width or height of a benchmark's videos, in pixels."""
MAX_TRUTH_BYTES = 1 << 26
"""Largest ground-truth file."""

# Web page
MAX_UPLOAD_BYTES = 1 << 26
"""Largest uploaded file."""
MAX_UPLOAD_FOLDER_BYTES = 1 << 32
"""Largest size of all uploads together; they are deleted after a day."""
MAX_BODY_BYTES = 1 << 18
"""Largest request that is no upload."""
