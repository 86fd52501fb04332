"""What is no answer, whatever it says: refusals, errors in place of text, courtesies."""

import re

_CANNOT = (
    r"(?:can ?not|can['’]?t|could(?: not|n['’]?t)|won['’]?t|will not|do(?: not|n['’]?t)|am (?:not able|"
    r"unable)|"
    r"['’]m (?:not able|unable))"
)
_ACT = (
    r"(?:see|view|assist|help|describe|provide|identify|determine|process|access|analy[sz]e|comply|fulfill?|recogni[sz]e|open|"
    r"display|"
    r"interpret|discern|make out|load|have|tell|answer|generate|perceive|look at|directly)"
)
_IMAGE = r"(?:images?|pictures?|photos?|photographs?|attachments?|visual content)"
_GIVEN = (
    r"(?:provided|attached|uploaded|visible|available|loaded|displayed|included|shown|supported|accessible|found|received|supplied|"
    r"shared|given|present|come through|clear enough)"
)
# At the beginning of an answer or a line.
_ENGLISH = (
    r"(?:i['’]?m|i am|we['’]?re|we are)\s+(?:(?:very|so|really|truly|terribly)\s+)?(?:sorry|afraid|unable|"
    r"not able|not sure|"
    r"not allowed)\b",
    r"(?:i['’]?m|i am)\s+(?:just |only |merely )?an? (?:\w+ )?(?:ai\b|language model|text-based|text-only|"
    r"virtual assistant)",
    r"(?:sorry|(?:my )?apologies|pardon)\s*(?:[,.!:;—]\s|-\s|but\b|i\b|we\b|for\b|about\b|that\b|no\b|$|"
    r"[,.!]+$)",
    r"(?:unfortunately|regrettably)\b\s*,?",
    rf"(?:i|we)(?:\s+\w+)?\s*{_CANNOT}\b",
    r"i (?:must|have to|need to|will have to) (?:decline|refuse|refrain)|i (?:decline|refuse|"
    r"apologi[sz]e)\b|i['’]?d (?:rather|"
    r"prefer) not\b",
    r"(?:as|being) an? (?:ai|artificial|large|language|text-based|text-only|text|vision|multimodal|virtual|"
    r"chat ?bot|"
    r"assistant)[ -]?"
    r"(?:ai|model|language|assistant|intelligence|based|only|system)?\b",
    rf"(?:unable|not able|failed|cannot|can['’]?t|could not|couldn['’]?t) (?:to )?{_ACT}\b(?! (?:his|her|"
    rf"its|their|"
    rf"the (?!{_IMAGE})))",
    rf"(?:there (?:is|was|are|were|isn['’]?t|appears to be|seems to be)|i (?:see|have|received|"
    rf"got))\s+(?:no|not an?|"
    rf"an?y)\s+{_IMAGE}\b",
    rf"no {_IMAGE} (?:(?:is|was|were|has been|have been|to)\b|{_GIVEN}|in\b|here\b)|no {_IMAGE}\W*$",
    rf"{_IMAGE} (?:is |was )?(?:not|un)[ -]?{_GIVEN}",
    r"(?:please|kindly|(?:could|can|would) you(?: please)?)\s+(?:re-?)?(?:provide|upload|share|attach|send|"
    r"try|describe)\b",
    r"it (?:looks|seems|appears)(?: like| that| as (?:if|though))? (?:there|no|you|your|an?)\b[^.]{0,60}"
    r"(?:\b(?:no|not|missing|failed)\b|n['’]?t\b)",
    rf"(?:it (?:looks|seems|appears)(?: like| that| as (?:if|though))? )?(?:the|your) {_IMAGE}\b[^.]{{0,30}} "
    r"(?:missing|failed to|corrupted|broken link|unavailable)\b",
    r"(?:error|exception)\s*[:\d(\[]|(?:internal server error|too many requests|service unavailable|bad "
    r"gateway|"
    r"gateway time-?out)\b",
    r"(?:rate limit|quota|context length)\s+(?:\w+ )?(?:exceeded|reached|error)|traceback \(most|request "
    r"timed out",
    r"(?:n/?a|none|null|nil|undefined|nan|unknown|nothing|no (?:answer|description|object|objects|comment|"
    r"response|output|idea|"
    r"names?)"
    r"(?: found| available| provided)?|not (?:applicable|available|sure|known)|unclear|unidentifiable)\W*$",
)
# Anywhere in the first sentence.
_WITHIN = (
    rf"\b(?:i|we)\s*(?:really |simply |also )?{_CANNOT}\s+(?:\w+ly )?{_ACT}\b",
    rf"\b{_IMAGE}\b[^.]{{0,30}}?\b(?:(?:is|was|are|were|has|have|did|does|could|can)(?: not|n['’]?t)|cannot|"
    rf"can['’]?t) "
    rf"(?:be |been |seem to be |appear to be |actually )?(?:{_GIVEN}|{_ACT})\b(?! (?:his|her|its|their|"
    rf"the)\b)",
    r"\b(?:against|violates?|due to|because of) (?:the|my|our|its|openai['’]s)?\s*(?:\w+ )?(?:polic(?:y|"
    r"ies)|guidelines)\b",
    r"\bas an ai\b|\bai (?:language )?model\b",
)
_OTHERS = (
    r"(?:es )?tut mir (?:sehr )?leid",
    "leider",
    "entschuldig",
    r"ich kann (?:nicht|keine?|das|dies|ihnen|dir|dabei|leider)",
    r"als (?:eine? )?ki\b",
    r"(?:je suis )?désolée?",
    r"je ne (?:peux|suis|vois)",
    "malheureusement",
    r"en tant qu",
    r"(?:toutes )?mes excuses",
    r"lo siento",
    r"lo lamento",
    r"no (?:puedo|es posible|soy capaz|tengo)",
    "lamentablemente",
    "desafortunadamente",
    r"como (?:una? )?(?:ia|modelo)\b",
    r"desculpe",
    r"sinto muito",
    r"(?:eu )?não (?:posso|consigo|é possível|sou capaz)",
    "infelizmente",
    "lamento",
    r"como (?:um )?modelo",
    r"mi dispiace",
    r"(?:mi )?scus[ai]",
    r"non (?:posso|riesco|sono in grado|è possibile)",
    "purtroppo",
    r"het spijt me",
    "helaas",
    r"ik kan (?:niet|geen|de|u|je)",
    r"przykro mi",
    "przepraszam",
    "niestety",
    r"nie mogę",
    "извин",
    "прости",
    r"к сожалению",
    r"я не (?:могу|вижу)",
    "вибач",
    r"на жаль",
    "üzgünüm",
    "maalesef",
    r"özür dilerim",
    r"xin lỗi",
    r"(?:mohon )?maaf",
    r"saya tidak (?:bisa|dapat)",
    "tyvärr",
    "förlåt",
    r"jag kan inte",
    "beklager",
    "desværre",
    "dessverre",
    r"jeg kan ikke",
    r"omlouvám se",
    "bohužel",
    "sajnálom",
    r"îmi pare rău",
    "λυπάμαι",
    "συγγνώμη",
    "عذر",
    "آسف",
    "للأسف",
    "أعتذر",
    r"لا (?:أستطيع|يمكنني)",
    "متأسف",
    "क्षमा करें",
    "माफ़",
    "मुझे खेद",
    "ขออภัย",
    "ขอโทษ",
    r"(?:很|非常|十分|真的)?(?:抱歉|对不起|對不起|不好意思|遗憾)",
    r"我(?:无法|無法|不能|看不到|没有|沒有|没办法)",
    r"(?:无法|無法)(?:识别|查看|提供|描述|回答|處理|处理)",
    r"作为(?:一个|一名)?(?:ai|人工智能|语言模型)",
    "(?:大変)?申し訳",
    "すみません",
    "すいません",
    "ごめん",
    "残念ながら",
    "죄송",
    "미안",
    "유감",
    r"(?:저는|제가) .{0,20}(?:수 없|못)",
)
_WHOLE = [word + r"(?!\w)" if word[-1].isascii() and word[-1].isalpha() else word for word in _OTHERS]
_REFUSALS = re.compile("|".join([*_ENGLISH, *_WHOLE]), re.I)
_WITHIN_FIRST = re.compile("|".join(_WITHIN), re.I)
_COURTESIES = re.compile(
    r"(?:is there|are there|would you|do you|shall i|should i|can i|may i|how can|what else|any (?:other|"
    r"more)|"
    r"(?:please )?let me know|"
    r"feel free|i hope|hope (?:this|that|it)|if you|note that|note:|(?:please )?note\b|enjoy\b|you['’]re "
    r"welcome|happy to|glad to|"
    r"thank(?:s| you)|have a (?:nice|great|good)|good luck|cheers\b|i['’]?d be (?:happy|glad)|i (?:can|"
    r"could|will|would|shall)\b|"
    r"i['’]ll\b|"
    r"let me\b|let['’]s\b|these (?:classes|names|are all|all|share)\b)",
    re.I,
)
_SELF_TALK = re.compile(
    r"(?:(?:okay|ok|alright|all right|hmm+|wait|so|well|first|now|right|got it|let['’]s see)\b[,.! ]*)*"
    r"(?:(?:let me|let['’]s|i need to|i should|i have to|we need to|we have to|we should|i['’]?m (?:asked|"
    r"supposed|told)|"
    r"we are (?:asked|told)) "
    r"|(?:the )?user (?:wants|asks|asked|is asking|has|says|said|requests?|needs|provided|gave|would)\b"
    r"|(?:the|my|this) (?:task|question|prompt|request|instruction) (?:is|asks|says|wants|requires)\b)",
    re.I,
)
_EDGE = " \t\n\"'`“”‘’«»„*_#>-–—.:"


def is_refusal(text: str) -> bool:
    """Whether a text begins as a refusal, or as an error that came in place of an answer.

    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("A sorry-looking dog")
    (True, False)
    """
    text = text.lstrip(_EDGE)
    first = re.split(r"(?<=[.!?。！？])\s", text[:400], maxsplit=1)[0]
    return bool(_REFUSALS.match(text) or _WITHIN_FIRST.search(first))


def is_courtesy(line: str) -> bool:
    """Whether a line talks to the user: "Let me know if you need more!", or a question."""
    line = line.strip(_EDGE)
    return bool(_COURTESIES.match(line)) or line.endswith(("?", "？"))


def is_self_talk(text: str) -> bool:
    """Whether a text begins as thoughts that a template opened: "Okay, the user wants …"."""
    return bool(_SELF_TALK.match(text.lstrip(_EDGE)))
