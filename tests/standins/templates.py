"""Chat templates of our own, of the token structure that the released ones have.

Each says how a turn opens and closes, where an image stands, and what an assistant's earlier turn looks like.
"""


def turns(image: str, *, system: str | None = None) -> str:
    """ChatML: ``image`` stands where the message has it. Without a system message the template puts its own first."""
    default = f"{{% if messages[0].role != 'system' %}}{_turn('system', system)}{{% endif %}}" if system else ""
    return (
        f"{default}{{% for message in messages %}}<|im_start|>{{{{ message.role }}}}\n"
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{{{{ {image!r} }}}}{{% elif part.type == 'text' %}}{{{{ part.text }}}}"
        "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


QWEN2_5_VL = turns("<|vision_start|><|image_pad|><|vision_end|>", system="You answer questions.")
QWEN3_VL = turns("<|vision_start|><|image_pad|><|vision_end|>")
INTERNVL = turns("<IMG_CONTEXT>\n")

# Images first whatever the order of the parts; a space after the role, a line break before each text, no line break
# after a turn. An earlier turn of the assistant therefore does not begin as the one that is to be written does.
LLAVA_ONEVISION = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{% for part in message.content if part.type == 'image' %}<image>{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}\n{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Roles in capitals on one line; the assistant's turn ends with the end of the text.
LLAVA = (
    "{% for message in messages %}{% if message.role != 'system' %}{{ message.role.upper() }}: {% endif %}"
    "{% for part in message.content if part.type == 'image' %}<image>\n{% endfor %}"
    "{% for part in message.content if part.type == 'text' %}{{ part.text }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
