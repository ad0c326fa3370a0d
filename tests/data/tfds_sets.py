"""Small TFDS data sets, written as users have them."""

import tensorflow_datasets as tfds


def write(path, features, examples):
  """Writes the splits train, two examples a file, and test, the first one."""
  path.mkdir()
  identity = tfds.core.DatasetIdentity(
    name="small",
    version=tfds.core.Version("1.0.0"),
    data_dir=str(path),
    module_name="small",
  )
  writer = tfds.core.SequentialWriter(
    tfds.core.DatasetInfo(
      builder=identity, features=tfds.features.FeaturesDict(features)
    ),
    max_examples_per_shard=2,
    file_format="array_record",
  )
  writer.initialize_splits(["train", "test"])
  writer.add_examples({"train": examples, "test": examples[:1]})
  writer.close_all()
