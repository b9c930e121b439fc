"""Writes tensorboard.bin with TensorBoard's own writer (pip install tensorboard) and reads it back.

    python event_file.py
"""
import os
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tensorboard.bin")
time = 1_700_000_000.25
with open(path, "wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=time, file_version="brain.Event:2").SerializeToString())
    for step in [0, 1, 300, 5_000_000_000]:
        values = [Summary.Value(tag="train/loss", simple_value=2.5),
                  Summary.Value(tag="train/learning_rate", simple_value=3e-4)]
        writer.write(Event(wall_time=time, step=step, summary=Summary(value=values)).SerializeToString())
    writer.flush()
print(os.path.getsize(path), "bytes")
