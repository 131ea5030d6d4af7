//! Checkpoints: model folders in Hugging Face layout and GGUF files, read one weight at a time.
//!
//! The layouts of formats are in `formats`. No code here knows how a folder is written: the files that `export` writes
//! are checked by reading them back through this module.

mod generation;
mod grids;
mod missing;
mod settings;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use self::generation::generation_of;
pub use self::grids::{described, second_rounding};
use self::missing::Said;
use crate::formats::gguf::GgufWeights;
pub use crate::formats::{CheckpointError, StoredWeight};
use crate::formats::{Packed, TensorFiles, packed, read_json};
use crate::gguf::{GgufFile, is_gguf};
use crate::hashes::Identity;
use crate::model::{
    DecoderConfig, OnGrid, ParameterSpec, Scheme, Schemes, TensorSpec, WeightId, has_images,
    in_layer, tensor_specs,
};
use crate::tensors::NotFinite;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// A model whose headers have been checked: every weight is there with its shape and dtype.
///
/// Weights are read on demand, so that a model is never held twice.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: DecoderConfig,
    promised_rows: Option<u64>,
    generation: Map<String, Value>,
    /// Tensors of a model of this architecture.
    tensors: Vec<TensorSpec>,
    /// Tensor that holds each weight, and the first row of the weight there.
    places: BTreeMap<WeightId, (usize, usize)>,
    weights: Weights,
    /// The files that hold the weights, as they were when their headers were read.
    opened: Vec<(PathBuf, Identity)>,
    notes: Vec<String>,
}

/// Storage of the weights.
#[derive(Debug)]
enum Weights {
    /// The safetensors files of a folder.
    Folder {
        files: TensorFiles,
        quantization: Option<Box<dyn Packed>>,
        /// Settings of quantisation in `config.json`, and the ones that only the files show.
        quantization_json: Option<Value>,
    },
    /// A GGUF file.
    Gguf(GgufWeights),
}

impl Checkpoint {
    /// Reads the headers of a model folder or of a `.gguf` file.
    ///
    /// In a folder, weights may be plain (F32, F16, BF16), compressed-tensors, GPTQ, AWQ or MLX. Tensors that no part
    /// of the decoder owns are ignored, as in transformers. A tensor of one of the decoder's modules or layers that is
    /// not understood (a bias, a norm, a zero point) is refused, because leaving it out would change the model. In a
    /// GGUF file, every tensor must be understood, because llama.cpp writes no unused ones.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut checkpoint = if is_gguf(path) {
            Self::open_gguf(path)?
        } else {
            Self::open_folder(path)?
        };
        checkpoint.check_tensors()?;
        checkpoint.settle()?;
        checkpoint.opened = checkpoint.identities()?;
        Ok(checkpoint)
    }

    /// A model that is known by what its headers said, and whose weights are elsewhere; `dir` has its tokenizer.
    pub fn without_weights(
        dir: &Path,
        config: DecoderConfig,
        generation: Map<String, Value>,
        promised_rows: Option<u64>,
    ) -> Self {
        let weights = Weights::Folder {
            files: TensorFiles::none(dir),
            quantization: None,
            quantization_json: None,
        };
        Self {
            promised_rows,
            ..Self::new(dir, config, generation, weights)
        }
    }

    /// True if its weights can be read; see [`Checkpoint::without_weights`].
    pub fn has_weights(&self) -> bool {
        !self.opened.is_empty()
    }

    fn open_folder(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join("config.json");
        if !path.exists() {
            let dir = dir.to_path_buf();
            let adapter = missing::adapter(&dir);
            return Err(adapter.unwrap_or_else(|| match only_gguf(&dir) {
                Some(gguf) => CheckpointError::IsAGgufFile { dir, gguf },
                None => CheckpointError::NotAModel { dir },
            }));
        }
        let json = read_json(&path)?;
        let refused = |path: &Path| {
            let path = path.to_path_buf();
            move |source| CheckpointError::Config { path, source }
        };
        let config = DecoderConfig::from_json(&json).map_err(refused(&path))?;
        let generation = generation::of_folder(dir)?;
        let config = config
            .with_generation(&json, &generation)
            .map_err(refused(&dir.join(generation::FILE)))?;
        let mut files = TensorFiles::open(dir).map_err(|error| match error {
            CheckpointError::NoWeights { .. } => missing::adapter(dir).unwrap_or(error),
            error => error,
        })?;
        let (json, settings) = settings::with_settings(dir, json, &files)?;
        let mut quantization = packed(&json, &config).map_err(refused(&settings))?;
        if has_images(&json) {
            files.rename(text_name);
        }
        if config.tie_word_embeddings && files.info(EMBEDDING).is_none() {
            // The shared matrix may have been saved under its other name.
            files.rename(|name| Some(if name == HEAD { EMBEDDING } else { name }.to_owned()));
        }
        if let Some(quantization) = &mut quantization {
            quantization.keep_stored(&files);
        }
        let quantization_json = quantization.as_ref().and_then(|_| quantization_json(&json));
        let weights = Weights::Folder {
            files,
            quantization,
            quantization_json,
        };
        Ok(Self {
            promised_rows: json.get("vocab_size").and_then(Value::as_u64),
            notes: Vec::from_iter(DecoderConfig::note_on(&json)),
            ..Self::new(dir, config, generation, weights)
        })
    }

    fn open_gguf(path: &Path) -> Result<Self, CheckpointError> {
        let path = path.to_path_buf();
        let weights = GgufWeights::open(&path)?;
        let config = DecoderConfig::from_json(&weights.config_json()?);
        let config = config.map_err(|source| CheckpointError::Config {
            path: path.clone(),
            source,
        })?;
        let generation = generation::of_gguf(weights.file())?;
        Ok(Self::new(&path, config, generation, Weights::Gguf(weights)))
    }

    fn new(
        path: &Path,
        config: DecoderConfig,
        generation: Map<String, Value>,
        weights: Weights,
    ) -> Self {
        let tensors = tensor_specs(&config);
        let mut places = BTreeMap::new();
        for (tensor_idx, tensor) in tensors.iter().enumerate() {
            let mut first_row = 0;
            for part in &tensor.parts {
                places.insert(part.id, (tensor_idx, first_row));
                first_row += part.shape[0];
            }
        }
        Self {
            path: path.to_path_buf(),
            config,
            promised_rows: None,
            generation,
            tensors,
            places,
            weights,
            opened: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Decides by the files where the config states something else, and adds a note.
    fn settle(&mut self) -> Result<(), CheckpointError> {
        let Weights::Folder {
            files,
            quantization: Some(quantization),
            quantization_json,
        } = &mut self.weights
        else {
            return Ok(());
        };
        if let Some(settled) = quantization.settle(files)? {
            if let Some(Value::Object(quantization_json)) = quantization_json {
                quantization_json.insert("zeros".to_owned(), settled.decoded.into());
            }
            self.notes.extend(settled.note);
        }
        Ok(())
    }

    /// Notes to the user about facts that are not faults; each begins with the path.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.notes.iter();
        notes
            .map(|note| format!("`{}`: {note}", self.path.display()))
            .collect()
    }

    /// Folder or file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Architecture.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Rows of the embedding that `config.json` states at its top level, not in a part; `None` for a GGUF file. Added
    /// tokens of the tokenizer beyond them are left out.
    pub fn promised_rows(&self) -> Option<u64> {
        self.promised_rows
    }

    /// Sampling defaults: the contents of `generation_config.json`, or of the keys of a GGUF file in its place.
    pub fn generation(&self) -> &Map<String, Value> {
        &self.generation
    }

    /// The safetensors files of a folder; `None` for a GGUF file.
    pub fn files(&self) -> Option<&TensorFiles> {
        match &self.weights {
            Weights::Folder { files, .. } => Some(files),
            Weights::Gguf(_) => None,
        }
    }

    /// The GGUF file; `None` for a folder.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.weights {
            Weights::Folder { .. } => None,
            Weights::Gguf(weights) => Some(weights.file()),
        }
    }

    /// Schemes of a folder's quantised weights; plain weights and weights of a GGUF file have no entry.
    pub fn schemes(&self) -> Schemes {
        match &self.weights {
            Weights::Folder {
                quantization: Some(quantization),
                ..
            } => self.of_parts(|tensor| quantization.scheme(tensor)),
            Weights::Folder { .. } | Weights::Gguf(_) => Schemes::new(),
        }
    }

    /// Schemes of weights, from those of the tensors that hold them.
    fn of_parts(&self, scheme: impl Fn(&TensorSpec) -> Option<Scheme>) -> Schemes {
        let schemes = self.tensors.iter().filter_map(|tensor| {
            let scheme = scheme(tensor)?;
            Some(tensor.parts.iter().map(move |part| (part.id, scheme)))
        });
        schemes.flatten().collect()
    }

    /// Settings in `config.json` that decide how the tensors of a quantised folder are decoded; and the way their zeros
    /// are read, if a version of the format or another reader would read them differently.
    pub fn quantization_json(&self) -> Option<&Value> {
        match &self.weights {
            Weights::Folder {
                quantization_json, ..
            } => quantization_json.as_ref(),
            Weights::Gguf(_) => None, // the types of its tensors say it
        }
    }

    /// Schemes of a GGUF file's weights by the types of their blocks, like [`Checkpoint::schemes`] of a folder: codes
    /// around 0, groups of 32, and one scale each.
    pub fn block_schemes(&self) -> Schemes {
        match &self.weights {
            Weights::Folder { .. } => Schemes::new(),
            Weights::Gguf(weights) => self.of_parts(|tensor| weights.scheme(tensor)),
        }
    }

    /// One weight as it is stored: on its grid, if groups of the grid are neighbouring weights of a row, or in f32,
    /// row-major; in Hugging Face's order of rows.
    ///
    /// All of it is finite: NaN or infinity in plain numbers, in a scale or in a code is refused here, where weights
    /// are decoded, so no code that loads a model has to check again.
    pub fn weight(&self, spec: &ParameterSpec) -> Result<StoredWeight, CheckpointError> {
        let (tensor, first_row) = self.place(spec)?;
        let stored = self.tensor(tensor)?;
        if let StoredWeight::OnGrid(_) = stored {
            self.check_finite(tensor, &self.values_of(tensor, stored.clone()))?;
        }
        let rows = first_row..first_row + spec.shape[0];
        Ok(match stored {
            whole if tensor.parts.len() == 1 => whole,
            StoredWeight::OnGrid(weight) => StoredWeight::OnGrid(weight.rows(rows, tensor.shape)),
            StoredWeight::Plain(values) => StoredWeight::Plain(rows_of(values, rows, tensor.shape)),
        })
    }

    /// One weight in f32, row-major, dequantised if it is packed; all of it is finite.
    pub fn values(&self, spec: &ParameterSpec) -> Result<Vec<f32>, CheckpointError> {
        let (tensor, first_row) = self.place(spec)?;
        let values = self.tensor_values(tensor)?;
        if tensor.parts.len() == 1 {
            return Ok(values);
        }
        let rows = first_row..first_row + spec.shape[0];
        Ok(rows_of(values, rows, tensor.shape))
    }

    fn tensor_values(&self, tensor: &TensorSpec) -> Result<Vec<f32>, CheckpointError> {
        let stored = self.tensor(tensor)?;
        let is_on_grid = matches!(stored, StoredWeight::OnGrid(_));
        let values = self.values_of(tensor, stored);
        if is_on_grid {
            self.check_finite(tensor, &values)?; // scales may be finite, but a code or a product not
        }
        Ok(values)
    }

    /// The tensor that holds a weight, and the first of its rows there.
    fn place(&self, spec: &ParameterSpec) -> Result<(&TensorSpec, usize), CheckpointError> {
        let place = self.places.get(&spec.id);
        let found = place.and_then(|&(idx, first_row)| Some((self.tensors.get(idx)?, first_row)));
        found.ok_or_else(|| CheckpointError::MissingTensor {
            dir: self.path.clone(),
            tensor: spec.name.clone(),
        })
    }

    fn values_of(&self, tensor: &TensorSpec, stored: StoredWeight) -> Vec<f32> {
        let scheme = |tensor| match &self.weights {
            Weights::Gguf(weights) => weights.scheme(tensor),
            Weights::Folder { quantization, .. } => quantization.as_ref()?.scheme(tensor),
        };
        match (stored, scheme(tensor)) {
            (StoredWeight::OnGrid(weight), Some(scheme)) => {
                let group_len = scheme.weight.group_size.unwrap_or(tensor.shape[1]);
                weight.into_values(scheme.weight, group_len)
            }
            (StoredWeight::OnGrid(OnGrid { codes, .. }), None) => codes,
            (StoredWeight::Plain(values), _) => values,
        }
    }

    fn tensor(&self, spec: &TensorSpec) -> Result<StoredWeight, CheckpointError> {
        match &self.weights {
            Weights::Gguf(weights) => weights.weight(spec, &self.config),
            Weights::Folder {
                files,
                quantization,
                ..
            } => {
                let packed = quantization.as_ref();
                if let Some(weight) = packed.map_or(Ok(None), |all| all.weight(files, spec))? {
                    files.release_all(); // codes, scales and all other parts of the weight
                    return Ok(weight);
                }
                let values = files.f32s(&spec.name, &spec.stored_shape())?;
                Ok(StoredWeight::Plain(values))
            }
        }
    }

    fn check_finite(&self, spec: &TensorSpec, values: &[f32]) -> Result<(), CheckpointError> {
        NotFinite::check(&spec.name, values).map_err(|source| CheckpointError::NotFinite {
            path: self.path.clone(),
            source,
        })
    }

    /// Reads every weight once, and refuses what [`Checkpoint::weight`] refuses.
    pub fn check_weights(&self) -> Result<(), CheckpointError> {
        let mut tensors = self.tensors.iter();
        tensors.try_for_each(|tensor| self.tensor_values(tensor).map(drop))
    }

    /// BLAKE3 (hex) over all tensors; see [`TensorFiles::content_hash`] and
    /// [`GgufFile::content_hash`](crate::gguf::GgufFile::content_hash).
    pub fn content_hash(&self) -> String {
        match &self.weights {
            Weights::Folder { files, .. } => files.content_hash(),
            Weights::Gguf(weights) => weights.file().content_hash(),
        }
    }

    /// The files that hold the weights, as they are now: the opened files, even if others have their names.
    pub fn identities(&self) -> Result<Vec<(PathBuf, Identity)>, CheckpointError> {
        Ok(match &self.weights {
            Weights::Folder { files, .. } => files.identities()?,
            Weights::Gguf(weights) => vec![weights.file().identity()?],
        })
    }

    /// True if the files have not changed since they were opened. A file that was replaced by another is still open
    /// here and read as it was, but it counts as changed.
    pub fn is_as_opened(&self) -> Result<bool, CheckpointError> {
        Ok(self.identities()? == self.opened)
    }

    fn check_tensors(&self) -> Result<(), CheckpointError> {
        let tensors = &self.tensors;
        match &self.weights {
            Weights::Folder {
                files,
                quantization,
                ..
            } => check_folder(&self.path, files, quantization.as_deref(), tensors),
            Weights::Gguf(weights) => weights.check(tensors),
        }
    }
}

/// Some rows of a matrix.
fn rows_of(mut values: Vec<f32>, rows: Range<usize>, [_, columns]: [usize; 2]) -> Vec<f32> {
    values.truncate(rows.end * columns);
    values.drain(..rows.start * columns);
    values
}

/// Keys of a config in which engines describe quantised weights.
fn quantization_json(config: &Value) -> Option<Value> {
    let keys = ["quantization_config", "quantization"];
    let entries = keys
        .iter()
        .filter_map(|&key| Some((key.to_owned(), config.get(key)?.clone())));
    let entries: Map<String, Value> = entries.collect();
    (!entries.is_empty()).then_some(Value::Object(entries))
}

fn check_folder(
    dir: &Path,
    files: &TensorFiles,
    quantization: Option<&dyn Packed>,
    specs: &[TensorSpec],
) -> Result<(), CheckpointError> {
    let mut known = BTreeSet::new();
    let plain = match quantization {
        Some(_) => Said::PlainAmongCodes,
        None => Said::Plain,
    };
    for spec in specs {
        let explain = |said| move |error| missing::explain(error, spec, files, said);
        let parts = quantization.map_or(Ok(None), |all| all.check(files, spec));
        if let Some(parts) = parts.map_err(explain(Said::Codes))? {
            known.extend(parts);
        } else {
            let found = files.check_floats(&spec.name, &spec.stored_shape());
            found.map_err(explain(plain))?;
            known.insert(spec.name.clone());
        }
    }
    let modules: BTreeSet<&str> = specs.iter().map(TensorSpec::module).collect();
    let layers: BTreeSet<&str> = specs
        .iter()
        .filter_map(|spec| layer_of(&spec.name))
        .collect();
    let stranger = files.names().find(|name| {
        let module = name.rsplit_once('.').map_or("", |(module, _)| module);
        let is_in_a_layer = layer_of(name).is_some_and(|layer| layers.contains(layer));
        // Rotary frequencies, which old conversions hold, are computed again.
        let is_ours = is_in_a_layer && !name.ends_with(".rotary_emb.inv_freq");
        (is_ours || modules.contains(module)) && !known.contains(*name)
    });
    if let Some(name) = stranger {
        return Err(CheckpointError::UnknownTensor {
            dir: dir.to_path_buf(),
            tensor: name.to_owned(),
        });
    }
    check_tied(dir, files, &known)
}

/// Checks that a tied output matrix equals the embedding: transformers 4 would drop a different one, 5 would use it.
fn check_tied(
    dir: &Path,
    files: &TensorFiles,
    known: &BTreeSet<String>,
) -> Result<(), CheckpointError> {
    if known.contains(HEAD) {
        return Ok(());
    }
    let module = HEAD.trim_end_matches("weight"); // with its dot
    let mut others = files
        .names()
        .filter(|&name| name != HEAD && !known.contains(name));
    if let Some(other) = others.find(|name| name.starts_with(module)) {
        return Err(CheckpointError::UnknownTensor {
            dir: dir.to_path_buf(),
            tensor: other.to_owned(),
        });
    }
    if files.info(HEAD).is_none() || files.are_equal(HEAD, EMBEDDING)? {
        return Ok(());
    }
    Err(CheckpointError::NotTied {
        dir: dir.to_path_buf(),
        tensor: HEAD.to_owned(),
    })
}

/// Name in the decoder alone of a tensor of a model with images, without the prefix of transformers before or since
/// 4.52; `None` for the vision tower and the tensors that join it to the decoder.
fn text_name(name: &str) -> Option<String> {
    if let Some(name) = name.strip_prefix("model.language_model.") {
        return Some(format!("model.{name}"));
    }
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    let is_text = name == HEAD || name.strip_prefix("model.").is_some_and(is_of_a_decoder);
    is_text.then(|| name.to_owned())
}

fn is_of_a_decoder(name: &str) -> bool {
    ["embed_tokens.", "layers.", "norm."]
        .iter()
        .any(|module| name.starts_with(module))
}

/// Number of the layer that a tensor belongs to, as it is written in its name.
fn layer_of(name: &str) -> Option<&str> {
    in_layer(name).map(|(layer, _)| layer)
}

/// A `.gguf` file in a folder, the first by name.
fn only_gguf(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    entries
        .map(|entry| entry.path())
        .filter(|path| is_gguf(path))
        .min()
}

#[cfg(test)]
mod tests;
