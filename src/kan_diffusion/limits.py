"""Upper bounds of what files hold and of what users set, in one table.

Bounds of files keep whatever a stranger's file holds from filling a memory or an hour. Those of
settings are far above what one machine does in a week: without them a typo such as
``steps=10000000000`` would train for years.

"Read by" names the function that reads a file, "field" a field of settings or an option.
"""

from __future__ import annotations

# --- bytes of files ---
MOST_TABLE_BYTES = 1_000_000_000  # a table's file, or the text in a .csv.gz; read by read_table
MOST_UNPACKED_BYTES = 100_000_000  # what a packed file may hold whatever its size: Parquet, .csv.gz
MOST_TIMES_PACKED = 50  # or so many times its bytes, if that is more; room_unpacked
MOST_JSON_BYTES = 20_000_000  # model_index.json, config.json, headers of weights; read_json
MOST_RESULT_BYTES = 1_000_000  # trial.json and other JSON; read by read_as
MOST_STUDY_BYTES = 250_000  # study.yaml, which takes seconds to parse; read by read_study
MOST_LISTED_BYTES = 5_000_000_000  # all files of a run together; read by read_record
MOST_POINTS_BYTES = 200_000_000  # samples.safetensors, reverse/*.safetensors; read by load_points
MOST_CHECKPOINT_BYTES = 100_000_000  # checkpoint.safetensors, whatever the network's size
MOST_TIMES_WEIGHTS = 250  # or so many times its weights: SOAP keeps four squares a matrix

# --- what tables and files hold ---
MOST_COLUMNS = 10_000  # columns of a table
MOST_EMPTY_CELLS = 25_000_000  # cells of a text file, or a third of its bytes if that is more
MOST_CATEGORIES = 10_000  # values of a column of categories; fields categories, frequencies
MOST_RULES = 1_000  # rules between columns of a table; field rules
MOST_CODES = 1_000_000  # cells of all combinations that rules of a table list; field cells
MOST_RESULTS = 500_000  # values of results.parquet, a row for each trial of a study
MOST_SAVED_ENTRIES = 1_000_000  # entries of a denoiser's config.json
LARGEST_SETTING = 10_000_000  # number in a denoiser's config.json: widths, timesteps, intervals
LONGEST_CELL = 10_000  # characters of a cell and of a column's name; field prefix
LONGEST_LINE = 10_000_000  # bytes of each of the first two lines of a text file
LONGEST_NAME = 100  # characters of a name of settings; with an ending it still names a file

# --- networks ---
MOST_PARAMETERS = 100_000_000  # parameters of a denoiser, whose training takes 2 GB; field params
MOST_OPERATIONS = 1_000_000_000_000  # floating-point operations of a forward pass; field flops
MOST_INTERVALS = 10_000  # of a grid, whose layer keeps a table of them; argument grid_size
MOST_LAYERS = 100  # hidden layers; field depth
MOST_UNITS = 1_000_000  # units of a hidden layer; field hidden
MOST_SIDE = 1_024  # pixels of a side of a sample; field size

# --- training, sampling and studies ---
MOST_STEPS = 10_000_000  # optimiser steps: hours for a small network on one core; field steps
MOST_TIMESTEPS = 100_000  # steps of a noising process, and of a sampler; field num_timesteps
MOST_SECONDS = 10_000_000  # a budget of time, nearly four months; field max_seconds
MOST_MOMENTS = 100  # moments of training that a trial records; field moments
MOST_POINTS = 10_000_000  # points of a batch, of a toy's training set and of an evaluation
MOST_VALUES = 200_000_000  # numbers that are sampled at once, or of a table in memory; 1.6 GB
MOST_GUIDANCE = 1_000  # strength of classifier-free guidance; field guidance
MOST_TRIALS = 10_000  # seeds of a model, and tries of a search; fields seeds, tries
MOST_PLANNED = 50_000  # trials of a study: its seeds, data sets, models and so on multiplied
MOST_WORKERS = 1_024  # trials side by side; option workers
