//! Engine sections of the model cards: the library of a format, and how it loads the folder.

use std::fmt::Write as _;

use crate::data::UNCHANGED_CLASS;

/// Facts of a format for the card of a model.
pub(crate) struct Card {
    /// `library_name` in the front matter.
    pub(crate) library: &'static str,
    /// Tag of the format, if it has its own.
    pub(crate) tag: Option<&'static str>,
    /// Commands and code that load the folder; each was run on such a folder (`scripts/verify_in_engines.py`).
    pub(super) engines: fn(&mut String, &Loading<'_>),
}

/// Names that loading code needs.
pub(super) struct Loading<'a> {
    /// Name of the file, for a format that is a single file.
    pub(super) file: &'a str,
    /// Class of the tokenizer in transformers.
    tokenizer: &'static str,
}

impl Card {
    /// Adds the section on engines to a card. `is_rebuilt` is true if transformers 5 builds another tokenizer.
    pub(crate) fn add_engines(&self, card: &mut String, file: &str, is_rebuilt: bool) {
        card.push_str("\n## Use\n");
        let tokenizer = if is_rebuilt {
            card.push_str(
                "\n`AutoTokenizer` of transformers 5, which other engines also use, does not build the tokenizer of \
                 `tokenizer.json` for this family: check its ids.\n",
            );
            UNCHANGED_CLASS
        } else {
            "AutoTokenizer"
        };
        (self.engines)(card, &Loading { file, tokenizer });
    }
}

pub(super) fn transformers(card: &mut String, packages: &str, loading: &Loading<'_>) {
    let loader = loading.tokenizer;
    let _ = write!(
        card,
        "\nWith transformers (`pip install {packages}`):\n\n\
         ```python\n\
         from transformers import AutoModelForCausalLM, {loader}\n\n\
         tokenizer = {loader}.from_pretrained(\".\")\n\
         model = AutoModelForCausalLM.from_pretrained(\".\")\n\
         inputs = tokenizer(\"It was\", return_tensors=\"pt\")\n\
         print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))\n\
         ```\n"
    );
}

/// Engines of GPTQ and AWQ; transformers needs an extra package for them.
pub(super) fn gptqmodel(card: &mut String, loading: &Loading<'_>) {
    transformers(card, "transformers torch gptqmodel", loading);
    vllm(card);
}

pub(super) fn vllm(card: &mut String) {
    card.push_str("\nWith vLLM:\n\n```sh\nvllm serve .\n```\n");
}

pub(super) fn mlx(card: &mut String) {
    card.push_str(
        "\nWith MLX (`pip install mlx-lm`):\n\n\
         ```sh\n\
         mlx_lm.generate --model . --prompt \"It was\" --max-tokens 40\n\
         ```\n",
    );
}

pub(super) fn mistral_rs(card: &mut String, runner: &str) {
    let _ = write!(
        card,
        "\nWith mistral.rs (`pip install mistralrs`):\n\n\
         ```python\n\
         from mistralrs import CompletionRequest, Runner, Which\n\n\
         runner = {runner}\n\
         request = CompletionRequest(model=\"default\", prompt=\"It was\", max_tokens=40)\n\
         print(runner.send_completion_request(request).choices[0].text)\n\
         ```\n"
    );
}
