"""Cuts the font of the visible mark out of Noto Sans CJK: ASCII, GB 2312's first level (the 3755 commonest Chinese
characters), and common punctuation, in the forms of simplified Chinese.

    python mark_font.py NotoSansCJKjp-Regular.otf ../crates/pentimento-imaging/fonts/mark.otf

The source is in the package rinoh-typeface-notosanscjk 0.0.1 (file `notosanscjkjp-regular.otf`); fonttools 4.60.1 did the
work. The licence of both is the SIL Open Font License 1.1, which lies beside the result.
"""

import sys

from fontTools.subset import Options, Subsetter, load_font, save_font

PUNCTUATION = "　，。！？：；、（）《》【】“”‘’—…·©®™×"


def wanted():
    rows = range(0xB0, 0xD8)
    cells = range(0xA1, 0xFF)
    pairs = (bytes([row, cell]).decode("gb2312", errors="ignore") for row in rows for cell in cells)
    return {*map(chr, range(0x20, 0x7F)), *filter(None, pairs), *PUNCTUATION}


def simplified_forms(font):
    """Glyphs that the font replaces in simplified Chinese, with their replacements."""
    gsub, forms = font["GSUB"].table, {}
    for record in gsub.ScriptList.ScriptRecord:
        for language in record.Script.LangSysRecord:
            if language.LangSysTag.strip() != "ZHS":
                continue
            for index in language.LangSys.FeatureIndex:
                feature = gsub.FeatureList.FeatureRecord[index]
                if feature.FeatureTag == "locl":
                    for lookup in feature.Feature.LookupListIndex:
                        for table in gsub.LookupList.Lookup[lookup].SubTable:
                            forms.update(getattr(getattr(table, "ExtSubTable", table), "mapping", {}))
    return forms


def main():
    source, target = sys.argv[1:]
    options = Options()
    options.hinting, options.layout_features, options.name_IDs = False, [], [0, 1, 2, 3, 4, 5, 6, 13, 14]
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "BASE", "VORG", "vhea", "vmtx", "DSIG"]
    options.notdef_outline = True
    font = load_font(source, options)
    forms = simplified_forms(font)
    assert forms, "the font knows no forms of simplified Chinese"
    for table in font["cmap"].tables:
        if hasattr(table, "cmap"):
            table.cmap = {code: forms.get(glyph, glyph) for code, glyph in table.cmap.items()}
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=[ord(letter) for letter in wanted()])
    subsetter.subset(font)
    save_font(font, target, options)


if __name__ == "__main__":
    main()
