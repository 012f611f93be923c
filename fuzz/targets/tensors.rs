//! Tensors as lines of text, `NAME TYPE SIZE SIZE ..`, to safetensors files in which all numbers are the same.

use serde_json::{Map, Value, json};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Numbers in one file, in bytes.
const LARGEST: u64 = 16 << 20;

fn width(dtype: &str) -> u64 {
    match dtype {
        "F64" | "I64" => 8,
        "F32" | "I32" => 4,
        "F16" | "BF16" => 2,
        _ => 1,
    }
}

/// Writes a file; false when it would be too large. A line `note KEY VALUE` is one of what the file says of itself.
pub(crate) fn write(path: &Path, lines: &str, byte: u8) -> bool {
    let (mut header, mut notes, mut end) = (Map::new(), Map::new(), 0u64);
    for line in lines.lines() {
        if let Some((key, value)) = line.strip_prefix("note ").and_then(|note| note.split_once(' ')) {
            notes.insert(key.into(), json!(value));
            continue;
        }
        let mut words = line.split(' ');
        let (Some(name), Some(dtype)) = (words.next(), words.next()) else { continue };
        let shape: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let size = shape.iter().try_fold(width(dtype), |size, dim| size.checked_mul(*dim));
        let Some(next) = size.and_then(|size| end.checked_add(size)).filter(|next| *next <= LARGEST) else {
            return false;
        };
        if !header.contains_key(name) {
            header.insert(name.into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, next] }));
            end = next;
        }
    }
    if !notes.is_empty() {
        header.insert("__metadata__".into(), Value::Object(notes));
    }
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    if byte == 0 {
        // Without writing them.
        let start = file.seek(SeekFrom::End(0)).unwrap();
        file.set_len(start + end).unwrap();
    } else {
        file.write_all(&vec![byte; end as usize]).unwrap();
    }
    true
}
