"""Read the event files of TensorBoard."""


def records(file):
    """The records of a TFRecord file: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    data = file.read_bytes()
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        yield data[12:end]
        data = data[end + 4 :]
