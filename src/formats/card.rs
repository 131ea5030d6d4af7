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

/// Facts that loading code depends on.
pub(crate) struct Loading<'a> {
    /// Name of the file, for a format that is a single file.
    pub(crate) file: &'a str,
    /// True if `AutoTokenizer` of transformers 5 builds another tokenizer than that of the folder.
    pub(crate) is_rebuilt: bool,
    /// False if vLLM refuses the widths of the weights.
    pub(crate) loads_in_vllm: bool,
}

impl Card {
    /// Adds the section on engines to a card.
    pub(crate) fn add_engines(&self, card: &mut String, loading: &Loading<'_>) {
        card.push_str("\n## Use\n");
        if loading.is_rebuilt {
            card.push_str(
                "\n`AutoTokenizer` of transformers 5, which other engines also use, does not build the tokenizer of \
                 `tokenizer.json` for this family: check its ids.\n",
            );
        }
        (self.engines)(card, loading);
    }
}

pub(super) fn transformers(card: &mut String, packages: &str, loading: &Loading<'_>) {
    let loader = if loading.is_rebuilt {
        UNCHANGED_CLASS
    } else {
        "AutoTokenizer"
    };
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
    vllm(card, loading);
}

pub(super) fn vllm(card: &mut String, loading: &Loading<'_>) {
    card.push_str(if loading.loads_in_vllm {
        "\nWith vLLM:\n\n```sh\nvllm serve .\n```\n"
    } else {
        "\nvLLM loads 4 and 8 bits only, and refuses this folder.\n"
    });
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
