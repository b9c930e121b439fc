//! TensorBoard's event files, written by hand: TFRecord framing (length, masked CRC-32C, data, masked CRC-32C) around
//! `Event` protocol buffers with scalar summaries. Layouts: tensorflow/core/lib/io/record_writer.h and
//! tensorflow/core/util/event.proto.

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78) table.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// CRC-32C of a byte string.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| CRC_TABLE[(crc as u8 ^ b) as usize] ^ crc >> 8)
}

/// TFRecord masks its checksums, so that a record of records is not checked by an accident of zeros.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited protocol buffer field.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends `data` to `out` as one TFRecord.
fn record(out: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked(data).to_le_bytes());
}

/// The record that opens an event file. `wall_time` in seconds since 1970.
pub fn header(wall_time: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend_from_slice(&wall_time.to_le_bytes());
    field(&mut event, 3, b"brain.Event:2");
    let mut out = Vec::new();
    record(&mut out, &event);
    out
}

/// A record with the scalars of one step. `wall_time` in seconds since 1970.
pub fn scalars(wall_time: f64, step: u64, values: &[(&str, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut entry = Vec::new();
        field(&mut entry, 1, tag.as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend_from_slice(&value.to_le_bytes());
        field(&mut summary, 1, &entry);
    }
    let mut event = vec![1 << 3 | 1];
    event.extend_from_slice(&wall_time.to_le_bytes());
    // Protocol buffers leave a zero out.
    if step > 0 {
        event.push(2 << 3);
        varint(&mut event, step);
    }
    field(&mut event, 5, &summary);
    let mut out = Vec::new();
    record(&mut out, &event);
    out
}

/// How many leading bytes of an event file are whole, sound records of steps up to and including `last_step`.
///
/// What a killed process left half-written, and what it wrote after the checkpoint it will resume from, lies beyond.
pub fn sound_prefix(file: &[u8], last_step: u64) -> usize {
    let mut at = 0;
    while let Some((data, next)) = read_record(file, at) {
        if step_of(data).is_some_and(|step| step > last_step) {
            break;
        }
        at = next;
    }
    at
}

/// The data of the record at `at` and where the next one begins; `None` if it is cut short or its checksums differ.
fn read_record(file: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let head = file.get(at..at.checked_add(12)?)?;
    let (length, crc) = head.split_at(8);
    if masked(length) != u32::from_le_bytes(crc.try_into().ok()?) {
        return None;
    }
    let end = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?.checked_add(at + 12)?;
    let data = file.get(at + 12..end)?;
    let crc = file.get(end..end.checked_add(4)?)?;
    (masked(data) == u32::from_le_bytes(crc.try_into().ok()?)).then_some((data, end + 4))
}

/// The step of an event as this module writes it (time first, then the step if there is one).
fn step_of(event: &[u8]) -> Option<u64> {
    let bytes = event.get(9..)?;
    if *bytes.first()? != 2 << 3 {
        return None;
    }
    let mut step = 0u64;
    for (i, &b) in bytes[1..].iter().take(10).enumerate() {
        step |= ((b & 0x7f) as u64) << (7 * i);
        if b < 0x80 {
            return Some(step);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_known_strings() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_bytes_are_those_of_tensorboards_own_writer() {
        let mut file = header(1_700_000_000.25);
        for step in [0u64, 1, 300, 5_000_000_000] {
            file.extend(scalars(
                1_700_000_000.25,
                step,
                &[("train/loss", 2.5), ("train/learning_rate", 3e-4)],
            ));
        }
        assert_eq!(file, include_bytes!("../tests/golden/tensorboard.bin"));
    }

    #[test]
    fn a_torn_or_later_record_is_cut_off() {
        let mut file = header(1.0);
        let mut ends = vec![file.len()];
        for step in 1..=3 {
            file.extend(scalars(1.0, step * 100, &[("loss", step as f32)]));
            ends.push(file.len());
        }
        assert_eq!(sound_prefix(&file, 1000), ends[3]);
        assert_eq!(sound_prefix(&file, 200), ends[2]);
        assert_eq!(sound_prefix(&file, 0), ends[0]);
        assert_eq!(sound_prefix(&file[..ends[3] - 1], 1000), ends[2]);
        file[ends[1] + 20] ^= 1;
        assert_eq!(sound_prefix(&file, 1000), ends[1]);
        assert_eq!(sound_prefix(&[], 5), 0);
    }
}
