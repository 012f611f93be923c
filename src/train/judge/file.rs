//! A judge as one safetensors file: its parameters, with its words and picture size in the header.

use super::Judge;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

const WORDS: &str = "words";
const SIZE: &str = "size";

impl Judge {
    /// Writes the judge so that the file is either whole or absent.
    pub fn save(&self, path: &Path) -> Result<()> {
        let fault = |e: String| Error::io(path)(std::io::Error::other(e));
        let words = serde_json::to_string(&self.words).map_err(|e| fault(e.to_string()))?;
        let header = HashMap::from([(WORDS.to_owned(), words), (SIZE.to_owned(), self.size.to_string())]);
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let tensors = self.parameters.named().into_iter().map(|(name, var)| (name, Tensor::clone(&var)));
        safetensors::serialize_to_file(tensors, Some(header), &partial).map_err(|e| fault(e.to_string()))?;
        std::fs::rename(&partial, path).map_err(Error::io(path))
    }

    /// Reads what [`Judge::save`] wrote. A file that is something else, or damaged, is an [`Error::Model`] naming it.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let fault = |e: String| Error::model(path, format!("not a judge: {e}"));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| fault(e.to_string()))?;
        let entry = |key: &str| {
            let found = header.metadata().as_ref().and_then(|m| m.get(key));
            found.ok_or_else(|| fault(format!("{key} is missing from the header")))
        };
        let words = serde_json::from_str(entry(WORDS)?).map_err(|e| fault(e.to_string()))?;
        let size = entry(SIZE)?.parse().map_err(|e: std::num::ParseIntError| fault(e.to_string()))?;
        let judge = Self::new(words, size, 0)?;
        let stored = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| fault(e.to_string()))?;
        for (name, var) in judge.parameters.named() {
            let tensor = stored.get(&name).ok_or_else(|| fault(format!("tensor {name} is missing")))?;
            if tensor.shape() != var.shape() {
                let message = format!("tensor {name}: expected {:?}, found {:?}", var.shape(), tensor.shape());
                return Err(fault(message));
            }
        }
        judge.parameters.assign(&stored)?;
        Ok(judge)
    }
}
