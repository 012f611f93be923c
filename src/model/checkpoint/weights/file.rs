//! One safetensors file: its header in memory, its tensors read from the open file when a network asks for them.
//!
//! Files are read at positions, not mapped. A mapped file that somebody cuts short kills the process with a signal, and
//! its pages would count beside the copies that tensors are. Of a file that is replaced by another of its name, the open
//! handle keeps the old one; a file that is cut short where it lies is an error. Every number is read once, to the place
//! where it stays.

use crate::model::checkpoint::Stamp;
use crate::model::checkpoint::file::open_file;
use crate::{Error, Result};
use bytemuck::Pod;
use candle_core::{DType, Device, Tensor, WithDType};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The bytes before the header: its length.
const PREFIX: usize = 8;

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// So much of a file tells its format, where it is another.
const BEGINNING: u64 = 64;

/// Bytes that are read at a time: few enough to lie in a core's cache while their order is changed.
const CHUNK: usize = 1 << 19;

/// Larger tensors are asked for with care: where there is no room for them, that is an error of the file.
const LARGE: usize = 1 << 32;

/// An open file with its header read.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Of its content when it was opened.
    pub(super) stamp: Stamp,
    /// Where the tensors' bytes begin.
    start: u64,
    metadata: Metadata,
}

impl WeightFile {
    /// Opens and checks `path`; the file's name says nothing, its content decides.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let file = open_file(&path)?;
        let unreadable = |e: io::Error| Error::model(&path, e.to_string());
        let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
        let head = head(&file, stamp.length).map_err(unreadable)?;
        match metadata(&head, stamp.length) {
            Ok(metadata) => Ok(Self { start: head.len() as u64, path, file, stamp, metadata }),
            Err(fault) => Err(Error::model(path, diagnosis(&head, stamp.length, &fault))),
        }
    }

    /// Names and descriptions of all tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, TensorInfo)> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.clone()))
    }

    /// What the file says of itself under `key`.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The tensor that `info` describes, or some rows of one, in the stored type. Fails for anything but floating-point
    /// numbers: weights that claim to be integers are not the weights they are called.
    ///
    /// A convolution's kernels, (O, I, kh, kw), lie in memory as (O, kh, kw, I), as [`crate::kernels`] want them: what a
    /// layer makes of them is then no copy.
    pub(super) fn load(&self, name: &str, info: &TensorInfo) -> Result<Tensor> {
        let read = match info.dtype {
            Dtype::F16 => self.tensor(info, Vec::<u16>::reinterpret_into::<f16>),
            Dtype::BF16 => self.tensor(info, Vec::<u16>::reinterpret_into::<bf16>),
            Dtype::F32 => self.tensor(info, |values: Vec<f32>| values),
            Dtype::F64 => self.tensor(info, |values: Vec<f64>| values),
            other => {
                let message = format!("tensor {name}: expected F16, BF16, F32 or F64 numbers, found {other}");
                return Err(Error::model(&self.path, message));
            }
        };
        read.map_err(|e| self.unreadable(name, &e))
    }

    /// [`crate::kernels::pack`] of the tensor that `info` describes, as it is read; none for types that are not packed as they are.
    pub(super) fn pack(&self, name: &str, info: &TensorInfo) -> Option<Result<Tensor>> {
        use crate::kernels::{of_f16, of_f32};
        Some(match info.dtype {
            Dtype::F16 => self.packed(name, info, of_f16),
            Dtype::BF16 => self.packed(name, info, |bits: u16| bits),
            Dtype::F32 => self.packed(name, info, of_f32),
            _ => return None,
        })
    }

    fn packed<T: Pod + Default + Send + Sync>(
        &self,
        name: &str,
        info: &TensorInfo,
        round: impl Fn(T) -> u16 + Sync,
    ) -> Result<Tensor> {
        let (outputs, kernel) = (info.shape.first().copied().unwrap_or(1), kernels(&info.shape));
        let row: usize = info.shape.iter().skip(1).product();
        let dims = kernel.map_or_else(|| vec![outputs, row], |[outputs, inputs, h, w]| vec![outputs, h, w, inputs]);
        crate::kernels::pack_rows(&dims, round, |first, rows: &mut [T]| {
            let at = info.data_offsets.0 + first * row * size_of::<T>();
            let read = self.file.read_exact_at(bytemuck::cast_slice_mut(rows), self.start + at as u64);
            read.map_err(|e| self.unreadable(name, &e))?;
            if let Some([_, _, h, w]) = kernel {
                channels_last(rows, row, h * w);
            }
            Ok(())
        })
    }

    fn unreadable(&self, name: &str, fault: &io::Error) -> Error {
        let what = match fault.kind() {
            io::ErrorKind::UnexpectedEof => "the file has been cut short since it was opened".to_owned(),
            _ => fault.to_string(),
        };
        Error::model(&self.path, format!("tensor {name}: {what}"))
    }

    fn tensor<T: Pod + Send + Sync, N: WithDType>(
        &self,
        info: &TensorInfo,
        into_numbers: impl FnOnce(Vec<T>) -> Vec<N>,
    ) -> io::Result<Tensor> {
        let numbers = into_numbers(self.values(info)?);
        let tensor = match kernels(&info.shape) {
            None => Tensor::from_vec(numbers, info.shape.as_slice(), &Device::Cpu),
            Some([outputs, inputs, height, width]) => {
                Tensor::from_vec(numbers, (outputs, height, width, inputs), &Device::Cpu)
                    .and_then(|tensor| tensor.permute((0, 3, 1, 2)))
            }
        };
        tensor.map_err(io::Error::other)
    }

    /// The numbers in the order in which they are kept.
    fn values<T: Pod + Send + Sync>(&self, info: &TensorInfo) -> io::Result<Vec<T>> {
        let mut values = zeros::<T>(info.shape.iter().product())?;
        let (kernel, taps) = kernels(&info.shape).map_or((1, 1), |[_, i, h, w]| (i * h * w, h * w));
        let step = (CHUNK / (kernel * size_of::<T>())).max(1) * kernel;
        let read = |(i, values): (usize, &mut [T])| -> io::Result<()> {
            let at = info.data_offsets.0 + i * step * size_of::<T>();
            self.file.read_exact_at(bytemuck::cast_slice_mut(values), self.start + at as u64)?;
            if taps > 1 {
                channels_last(values, kernel, taps);
            }
            Ok(())
        };
        match values.len() > step {
            true => values.par_chunks_mut(step).enumerate().try_for_each(read)?,
            false => read((0, &mut values))?,
        }
        Ok(values)
    }

    /// The first number of the tensor that `info` describes. Unlike [`Self::load`] takes integers, too.
    pub(super) fn number(&self, info: &TensorInfo) -> Option<f64> {
        let mut bytes = [0; size_of::<f64>()];
        let (first, end) = info.data_offsets;
        let dtype = DType::try_from(info.dtype).ok().filter(|dtype| first + dtype.size_in_bytes() <= end)?;
        let bytes = &mut bytes[..dtype.size_in_bytes()];
        self.file.read_exact_at(bytes, self.start + first as u64).ok()?;
        let number = Tensor::from_raw_buffer(bytes, dtype, &[], &Device::Cpu).ok()?;
        number.to_dtype(DType::F64).ok()?.to_scalar().ok()
    }
}

/// The sizes of a convolution's kernels, unless of a single tap.
fn kernels(shape: &[usize]) -> Option<[usize; 4]> {
    let sizes: [usize; 4] = shape.try_into().ok()?;
    (sizes[2] * sizes[3] > 1 && sizes[1] > 0).then_some(sizes)
}

/// Turns kernels of `length` numbers each from (I, taps) to (taps, I).
fn channels_last<T: Pod>(values: &mut [T], length: usize, taps: usize) {
    let mut old = vec![T::zeroed(); length];
    for kernel in values.chunks_exact_mut(length) {
        old.copy_from_slice(kernel);
        for (tap, channels) in kernel.chunks_exact_mut(length / taps).enumerate() {
            channels.iter_mut().zip(old[tap..].iter().step_by(taps)).for_each(|(new, old)| *new = *old);
        }
    }
}

/// Zeros as the system gives them: it costs nothing to clear fresh memory again.
fn zeros<T: Pod>(count: usize) -> io::Result<Vec<T>> {
    if count.saturating_mul(size_of::<T>()) > LARGE {
        Vec::<T>::new().try_reserve_exact(count).map_err(io::Error::other)?;
    }
    Ok(vec![T::zeroed(); count])
}

/// The length of the header and the header, or the beginning of what is no safetensors file.
fn head(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut prefix = [0; PREFIX];
    let known = length >= PREFIX as u64;
    if known {
        file.read_exact_at(&mut prefix, 0)?;
    }
    let header = u64::from_le_bytes(prefix);
    let end = header.saturating_add(PREFIX as u64);
    let whole = known && header <= LONGEST_HEADER && end <= length;
    let mut head = vec![0; if whole { end } else { length.min(BEGINNING) } as usize];
    file.read_exact_at(&mut head, 0)?;
    Ok(head)
}

/// The description of all tensors in a file of this length.
fn metadata(head: &[u8], length: u64) -> std::result::Result<Metadata, SafeTensorError> {
    // It takes `head` for a whole file. What is wrong with a header it says before it says that the tensors are not there.
    match SafeTensors::read_metadata(head) {
        Ok(_) | Err(SafeTensorError::MetadataIncompleteBuffer) => {}
        Err(fault) => return Err(fault),
    }
    let metadata: Metadata =
        serde_json::from_slice(&head[PREFIX..]).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    match (head.len() as u64).checked_add(metadata.data_len() as u64) {
        Some(end) if end == length => Ok(metadata),
        _ => Err(SafeTensorError::MetadataIncompleteBuffer),
    }
}

/// Why a file of `length` bytes that begins with `head`, in which `fault` was found, is not a whole safetensors file.
fn diagnosis(head: &[u8], length: u64, fault: &SafeTensorError) -> String {
    // Only now that the file is known to be no safetensors file: one with a header of 640 bytes begins as pickles do.
    if let Some(kind) = other_kind(head) {
        return kind.to_owned();
    }
    if let Some(needed) = needed(head).filter(|&needed| needed != length) {
        let reason = if length < needed { "cut short, perhaps by an incomplete download" } else { "too long" };
        return format!("the file is {reason}: it has {length} bytes, its header needs {needed}");
    }
    format!("not a safetensors file: {fault} ({length} bytes)")
}

/// Formats that are often found under a wrong name.
fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Some(PICKLE),
        [b'G', b'G', b'U', b'F', ..] => Some("a GGUF file, which this program does not read; it needs safetensors"),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', b'h', ..] => {
            Some("a Git LFS pointer, not the file itself: fetch it with git lfs pull")
        }
        _ => None,
    }
}

/// What to say of PyTorch's own format, which is never read.
pub(crate) const PICKLE: &str = "a pickle file can run code when it is opened and is refused; load it in PyTorch, where \
    you trust it, and save it with safetensors.torch.save_file";

/// How long a file must be whose beginning is `bytes`, as far as that can be told.
fn needed(bytes: &[u8]) -> Option<u64> {
    let header = u64::from_le_bytes(*bytes.first_chunk::<PREFIX>()?);
    // A real header is JSON and below 100 MB.
    let looks_real = bytes.get(PREFIX).is_none_or(|&b| b == b'{') && (2..100_000_000).contains(&header);
    let end = looks_real.then(|| PREFIX as u64 + header)?;
    let Some(json) = bytes.get(PREFIX..end as usize) else { return Some(end) };
    let metadata: Metadata = serde_json::from_slice(json).ok()?;
    end.checked_add(metadata.data_len() as u64)
}

/// Whether this file is a pickle by its name: only ever to explain why it is not used.
pub(crate) fn is_pickle_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "bin" || e == "ckpt" || e == "pt" || e == "pth")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs;

    /// More than a chunk, in every type that is read, and kernels among them.
    fn save(path: &Path, shape: &[usize], dtype: candle_core::DType, first: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|i| first + (i % 1999) as f32).collect();
        let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        candle_core::safetensors::save(&HashMap::from([("x", tensor.clone())]), path).unwrap();
        tensor
    }

    fn open(path: &Path) -> (WeightFile, TensorInfo) {
        let file = WeightFile::open(path.to_owned()).unwrap();
        let info = file.tensors().next().unwrap().1;
        (file, info)
    }

    fn same(a: &Tensor, b: &Tensor) -> bool {
        let numbers = |x: &Tensor| x.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>();
        a.dtype() == b.dtype() && a.dims() == b.dims() && numbers(a).unwrap() == numbers(b).unwrap()
    }

    #[test]
    fn tensors_of_all_shapes_and_types_are_read_as_they_are() {
        use candle_core::DType::{BF16, F16, F32, F64};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let shapes: [&[usize]; 8] =
            [&[], &[0], &[7], &[700, 901], &[3, 5, 1, 1], &[90, 700, 3, 3], &[2, 40_000, 3, 3], &[2, 0, 3, 3]];
        for shape in shapes {
            for dtype in [F16, BF16, F32, F64] {
                let saved = save(&path, shape, dtype, 0.0);
                let (file, info) = open(&path);
                let loaded = file.load("x", &info).unwrap();
                assert!(same(&loaded, &saved), "{shape:?} {dtype:?}");
                if shape.len() == 4 && shape[1] > 5 {
                    assert!(loaded.permute((0, 2, 3, 1)).unwrap().is_contiguous(), "{shape:?}");
                }
            }
        }
    }

    /// The server must live on, whatever is done to the file that it is reading.
    #[test]
    fn a_file_that_is_cut_short_in_place_is_an_error_and_one_that_is_replaced_is_still_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let saved = save(&path, &[1000], candle_core::DType::F32, 1.0);
        let (file, info) = open(&path);

        let other = folder.path().join("y.safetensors");
        save(&other, &[1000], candle_core::DType::F32, 2.0);
        fs::rename(&other, &path).unwrap();
        assert!(same(&file.load("x", &info).unwrap(), &saved));

        let (file, info) = open(&path);
        fs::File::options().write(true).open(&path).unwrap().set_len(2000).unwrap();
        let error = file.load("x", &info).unwrap_err();
        assert!(matches!(error, Error::Model { .. }));
        let message = "tensor x: the file has been cut short since it was opened";
        assert_eq!(error.to_string(), format!("{}: {message}", path.display()));
    }
}
