//! Names of a UNet's layers in the original checkpoints (`input_blocks`, `middle_block`, `output_blocks`).
//!
//! The original layout counts all blocks of the way down and up through, where diffusers counts levels and blocks in them.
//! `layers` is the number of residual blocks of a level on the way down; the way up has one more.
//! Source: the layouts of CompVis' `openaimodel.py` and of diffusers' `UNet2DConditionModel`.

/// Layers outside the blocks: diffusers' names, and the original ones.
const OUTSIDE_BLOCKS: [(&str, &str); 6] = [
    ("conv_in", "input_blocks.0.0"),
    ("conv_out", "out.2"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
];

/// Layers of a residual block: diffusers' names, and the original ones.
const IN_RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

/// The name of a UNet's layer in the layout of the original checkpoints, for levels of `layers` residual blocks.
/// `with_attention` tells whether the level of the way up with this index has attention.
pub(crate) fn to_original(
    layer: &str,
    layers: usize,
    with_attention: impl Fn(usize) -> bool,
) -> Option<String> {
    if let Some((_, original)) = OUTSIDE_BLOCKS.iter().find(|(ours, _)| *ours == layer) {
        return Some((*original).to_owned());
    }
    let (block, rest) = layer.split_once('.')?;
    if block == "mid_block" {
        let (kind, rest) = rest.split_once('.')?;
        let (index, rest) = rest.split_once('.')?;
        return match (kind, index) {
            ("resnets", "0") => Some(format!("middle_block.0.{}", in_resnet(rest)?)),
            ("attentions", "0") => Some(format!("middle_block.1.{rest}")),
            ("resnets", "1") => Some(format!("middle_block.2.{}", in_resnet(rest)?)),
            _ => None,
        };
    }
    let mut places = rest.splitn(4, '.');
    let (level, kind) = (places.next()?.parse::<usize>().ok()?, places.next()?);
    let (index, rest) = (places.next()?.parse::<usize>().ok()?, places.next()?);
    match (block, kind) {
        ("down_blocks", "resnets") => {
            Some(format!("input_blocks.{}.0.{}", 1 + level * (layers + 1) + index, in_resnet(rest)?))
        }
        ("down_blocks", "attentions") => {
            Some(format!("input_blocks.{}.1.{rest}", 1 + level * (layers + 1) + index))
        }
        ("down_blocks", "downsamplers") => Some(format!("input_blocks.{}.0.op", (level + 1) * (layers + 1))),
        ("up_blocks", "resnets") => {
            Some(format!("output_blocks.{}.0.{}", level * (layers + 1) + index, in_resnet(rest)?))
        }
        ("up_blocks", "attentions") => {
            Some(format!("output_blocks.{}.1.{rest}", level * (layers + 1) + index))
        }
        ("up_blocks", "upsamplers") => {
            let place = if with_attention(level) { 2 } else { 1 };
            Some(format!("output_blocks.{}.{place}.conv", level * (layers + 1) + layers))
        }
        _ => None,
    }
}

/// diffusers' name of a UNet's layer in the original layout.
pub(crate) fn from_original(layer: &str, layers: usize) -> Option<String> {
    if let Some((ours, _)) = OUTSIDE_BLOCKS.iter().find(|(_, original)| *original == layer) {
        return Some((*ours).to_owned());
    }
    let (block, rest) = layer.split_once('.')?;
    if block == "middle_block" {
        let (index, rest) = rest.split_once('.')?;
        return match index {
            "0" => Some(format!("mid_block.resnets.0.{}", out_of_resnet(rest)?)),
            "1" => Some(format!("mid_block.attentions.0.{rest}")),
            "2" => Some(format!("mid_block.resnets.1.{}", out_of_resnet(rest)?)),
            _ => None,
        };
    }
    let mut places = rest.splitn(3, '.');
    let (count, kind, rest) = (places.next()?.parse::<usize>().ok()?, places.next()?, places.next()?);
    let (way, count) = match block {
        "input_blocks" => ("down_blocks", count.checked_sub(1)?),
        "output_blocks" => ("up_blocks", count),
        _ => return None,
    };
    let (level, index) = (count / (layers + 1), count % (layers + 1));
    match (kind, rest) {
        ("0", "op") => Some(format!("{way}.{level}.downsamplers.0.conv")),
        ("1" | "2", "conv") => Some(format!("{way}.{level}.upsamplers.0.conv")),
        ("0", rest) => Some(format!("{way}.{level}.resnets.{index}.{}", out_of_resnet(rest)?)),
        ("1", rest) => Some(format!("{way}.{level}.attentions.{index}.{rest}")),
        _ => None,
    }
}

fn in_resnet(layer: &str) -> Option<&'static str> {
    IN_RESNET.iter().find(|(ours, _)| *ours == layer).map(|(_, original)| *original)
}

fn out_of_resnet(layer: &str) -> Option<&'static str> {
    IN_RESNET.iter().find(|(_, original)| *original == layer).map(|(ours, _)| *ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_names_in_the_original_layout() {
        let attention = |level| level > 0;
        for (layer, expected) in [
            ("conv_in", "input_blocks.0.0"),
            ("down_blocks.0.resnets.1.conv2", "input_blocks.2.0.out_layers.3"),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
            ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
            ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
            ("mid_block.attentions.0.proj_out", "middle_block.1.proj_out"),
            ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
            ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
            ("up_blocks.1.attentions.2.norm", "output_blocks.5.1.norm"),
        ] {
            assert_eq!(to_original(layer, 2, attention).as_deref(), Some(expected), "{layer}");
            assert_eq!(from_original(expected, 2).as_deref(), Some(layer), "{expected}");
        }
        assert_eq!(to_original("down_blocks.x", 2, attention), None);
    }
}
