"""The smallest wav2vec 2.0 of torchaudio's factory, with five labels: frames of 20 ms at 16 kHz."""

TINY_WAV2VEC2 = dict(
    extractor_mode="group_norm", extractor_conv_layer_config=[(8, 10, 5), (8, 64, 64)],
    extractor_conv_bias=False, encoder_embed_dim=16, encoder_projection_dropout=0.0,
    encoder_pos_conv_kernel=16, encoder_pos_conv_groups=2, encoder_num_layers=1,
    encoder_num_heads=2, encoder_attention_dropout=0.0, encoder_ff_interm_features=16,
    encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=False,
    encoder_layer_drop=0.0, aux_num_out=5,
)  # fmt: skip
