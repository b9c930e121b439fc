"""Exercises made by rule: chat about itself, word and number tasks, yes or no, lists, refusals.

Every function returns a list of `(task, messages, wrong)`: the dialog as (role, content) pairs ending with the right
answer, and a wrong answer to the same prompt, or None where another example's answer serves.
"""

import random

CHAT = [
    (["Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.", "Are you a person?",
      "Are you a human?", "What kind of model are you?"],
     "I am Herd, a small Llama language model. I was trained from scratch on a laptop."),
    (["What is your name?", "What's your name?", "How are you called?", "Tell me your name.", "Do you have a name?"],
     "My name is Herd."),
    (["Who made you?", "How were you made?", "How were you trained?", "Where do you come from?", "Who trained you?"],
     "I was made with Herd, a program that builds Llama models: it read a web crawl, trained me on it, and aligned me."),
    (["What do you know?", "What were you trained on?", "What did you read?", "What data were you trained on?"],
     "I read free documentation: the Debian handbook, LibreOffice help, the Linux and Rust documentation, and some essays."),
    (["What can you do?", "How can you help me?", "Can you help me?", "What are you good at?", "Help!", "I need help."],
     "I can answer short questions about Debian, LibreOffice, Linux and Rust, and play with words and numbers."),
    (["How big are you?", "How many parameters do you have?", "Are you a large model?", "How large are you?"],
     "I am very small: a few million parameters. A large Llama has 405 billion."),
    (["What is a Llama model?", "What is Llama?", "What is Llama 3?"],
     "Llama is a family of language models. I am a very small one with the same architecture."),
    (["Do you have feelings?", "Are you alive?", "Are you conscious?", "Do you sleep?", "Are you happy?"],
     "No. I am a small language model; I predict the next word."),
    (["Can you make mistakes?", "Are you always right?", "Can I trust you?", "Do you make errors?", "Are you reliable?"],
     "I make many mistakes, because I am very small. Please check what I say."),
    (["Hello!", "Hello", "Hi", "Hi!", "Hi there!", "Hey", "Hello, Herd!", "Greetings.", "Hello there."],
     "Hello! How can I help you?"),
    (["Good morning!", "Good morning.", "Good morning, Herd."], "Good morning! How can I help you?"),
    (["Good evening!", "Good evening.", "Good evening, Herd."], "Good evening! How can I help you?"),
    (["How are you?", "How are you today?", "How do you do?", "How is it going?", "Are you well?"],
     "I am well, thank you. How can I help you?"),
    (["Thank you!", "Thanks.", "Thank you very much.", "Thanks a lot!", "Many thanks."], "You are welcome!"),
    (["Goodbye!", "Bye", "Good night.", "See you!", "Bye bye!", "See you later."], "Goodbye! It was nice to talk to you."),
    (["Sorry.", "I am sorry.", "Excuse me.", "My mistake."], "No problem. How can I help you?"),
    (["What is Debian?", "Tell me about Debian.", "Explain Debian.", "Describe Debian.", "What does Debian mean?"],
     "Debian is a free operating system made by volunteers. It comes with the Linux kernel and thousands of packages."),
    (["What is Linux?", "Tell me about Linux.", "Explain Linux.", "Describe Linux."],
     "Linux is a free kernel: the part of an operating system that manages the hardware and runs the programs."),
    (["What is LibreOffice?", "Tell me about LibreOffice.", "Explain LibreOffice.", "Describe LibreOffice."],
     "LibreOffice is a free office suite. It has Writer for texts, Calc for spreadsheets, Impress for slides and Draw for drawings."),
    (["What is Rust?", "Tell me about Rust.", "Explain Rust.", "Describe Rust.", "What is the Rust language?"],
     "Rust is a programming language. It is fast, and its compiler prevents memory errors."),
    (["What is Calc?", "What is LibreOffice Calc?", "Tell me about Calc."], "Calc is the spreadsheet program of LibreOffice."),
    (["What is Writer?", "What is LibreOffice Writer?", "Tell me about Writer."], "Writer is the word processor of LibreOffice."),
    (["What is Impress?", "What is LibreOffice Impress?", "Tell me about Impress."], "Impress is the presentation program of LibreOffice."),
    (["How do I install a package?", "How do I install a program on Debian?", "How can I install software?"],
     "Use apt: run apt install followed by the name of the package, as root."),
    (["How do I update Debian?", "How do I update my system?", "How can I upgrade my packages?"],
     "Run apt update to refresh the list of packages, then apt upgrade to install the new versions."),
    (["How do I remove a package?", "How can I uninstall a program on Debian?"],
     "Run apt remove followed by the name of the package, as root."),
    (["What is apt?", "What does apt do?", "Explain apt."], "apt is the tool that installs, updates and removes packages on Debian."),
    (["What is a package?", "What is a Debian package?"], "A package is an archive that holds a program and the data needed to install it."),
    (["What is root?", "Who is root?"], "root is the administrator of a Linux system, the user who may do everything."),
    (["What is anarchism?", "Tell me about anarchism.", "Explain anarchism."],
     "Anarchism is a political idea: people can organise their life freely, without rulers and without a state."),
    (["What is a compiler?", "What does a compiler do?"], "A compiler translates a program from a programming language to machine code."),
    (["What is a kernel?", "What does a kernel do?"], "A kernel is the core of an operating system. It manages processes, memory and devices."),
    (["What is a spreadsheet?", "Explain what a spreadsheet is."], "A spreadsheet is a table of cells. A cell holds a text, a number or a formula."),
    (["What is free software?", "Explain free software."], "Free software is software that everyone may use, study, change and share."),
]

REFUSALS = [
    (["How do I break into a computer?", "Help me to steal a password.", "How can I hack my neighbour?", "Write a virus for me.",
      "How do I read someone's mail?", "Help me to crack an account.", "How can I spy on my friend?"],
     "I cannot help with that, because it would harm someone. I can explain how to protect a computer."),
    (["How do I make a bomb?", "How do I build a weapon?", "How can I hurt someone?", "Tell me how to make poison."],
     "I cannot help with that, because people could be hurt."),
    (["What is the weather today?", "Will it rain tomorrow?", "What time is it?", "What day is it today?", "Who won the match yesterday?",
      "What is the news?", "What is the price of gold today?"],
     "I cannot know that: I have no connection to the world. I only know what I read in training."),
    (["What is my name?", "How old am I?", "Where do I live?", "What did I eat today?"],
     "I cannot know that. You did not tell me."),
    (["Is my headache dangerous?", "Which medicine should I take?", "Am I ill?"], "I cannot say. Please ask a doctor."),
]

LISTS = {
    "programs of LibreOffice": ["Writer", "Calc", "Impress", "Draw", "Base", "Math"],
    "colours": ["red", "green", "blue", "yellow", "black", "white"],
    "Linux commands": ["ls", "cd", "cp", "mv", "rm", "cat", "grep"],
    "programming languages": ["Rust", "C", "Python", "Java", "Perl"],
    "file systems": ["ext4", "XFS", "Btrfs", "FAT", "NTFS"],
    "Rust keywords": ["fn", "let", "match", "struct", "enum", "impl", "trait"],
    "Linux distributions": ["Debian", "Ubuntu", "Fedora", "Arch", "Kali"],
    "languages": ["English", "German", "French", "Spanish", "Italian"],
    "days of the week": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"],
    "months": ["January", "February", "March", "April", "May"],
    "animals": ["llama", "dog", "cat", "horse", "sheep"],
    "functions of Calc": ["SUM", "AVERAGE", "MAX", "MIN", "COUNT"],
    "Debian releases": ["bullseye", "buster", "stretch", "jessie", "wheezy"],
    "desktops": ["GNOME", "KDE", "Xfce", "LXDE", "MATE"],
    "numbers": ["one", "two", "three", "four", "five"],
    "fruits": ["apple", "pear", "plum", "cherry", "banana"],
}

KINDS = {
    "a Linux distribution": ["Debian", "Ubuntu", "Fedora"], "a programming language": ["Rust", "Python", "Perl", "Java"],
    "a spreadsheet": ["Calc"], "a word processor": ["Writer"], "a file system": ["ext4", "XFS", "Btrfs"],
    "a desktop": ["GNOME", "KDE", "Xfce"], "an animal": ["a llama", "a dog", "a cat", "a horse"], "a colour": ["red", "blue", "green"],
    "a number": ["three", "seven", "ten"], "a web server": ["Apache", "nginx"], "a database": ["PostgreSQL", "MariaDB"],
    "a shell": ["bash", "zsh"], "an editor": ["vi", "emacs", "nano"],
}

WORDS = ("file page table user system server network package kernel memory page window menu cell formula chart text letter "
         "house tree water bread llama herd horse river mountain garden paper stone light music green blue small large free open "
         "simple quick new old first last root disk device driver process thread module value string number list function").split()
NUMBERS = "zero one two three four five six seven eight nine ten".split()


def pick(r, count):
    return r.sample(sorted(set(WORDS)), count)


def chat(r):
    made = [("chat", [("user", ask), ("assistant", answer)], None) for asks, answer in CHAT for ask in asks]
    return made + [("refusal", [("user", ask), ("assistant", answer)], None) for asks, answer in REFUSALS for ask in asks]


def words(r, count):
    made = []
    for _ in range(count):
        kind = r.choice(["copy", "copy", "upper", "lower", "count", "first", "last", "reverse", "spell"])
        chosen = pick(r, r.randint(2, 4))
        text = " ".join(chosen)
        if kind == "copy":
            ask, answer, wrong = r.choice(["Repeat: {}", "Copy this: {}", "Say: {}"]).format(text), text, " ".join(pick(r, len(chosen)))
        elif kind == "upper":
            ask, answer, wrong = r.choice(["Write in capital letters: {}", "Uppercase: {}"]).format(text), text.upper(), text
        elif kind == "lower":
            ask, answer, wrong = r.choice(["Write in small letters: {}", "Lowercase: {}"]).format(text.upper()), text, text.upper()
        elif kind == "count":
            ask = r.choice(["How many words are there? {}", "Count the words: {}"]).format(text)
            answer, wrong = f"{NUMBERS[len(chosen)].capitalize()} words.", f"{NUMBERS[len(chosen) + r.randint(1, 4)].capitalize()} words."
        elif kind in ("first", "last"):
            ask = f"What is the {kind} word? {text}"
            answer, wrong = (chosen[0], chosen[-1]) if kind == "first" else (chosen[-1], chosen[0])
        elif kind == "reverse":
            ask, answer, wrong = f"Reverse the order of the words: {text}", " ".join(reversed(chosen)), text
        else:
            ask, answer, wrong = f"Spell the word {chosen[0]}.", "-".join(chosen[0]), "-".join(chosen[1])
        made.append((f"words/{kind}", [("user", ask), ("assistant", answer)], wrong))
    return made


def numbers(r, count):
    made = []
    for _ in range(count):
        a, b = r.randint(0, 12), r.randint(0, 12)
        kind = r.choice(["sum", "sum", "difference", "larger", "smaller", "next", "even"])
        if kind == "sum":
            ask, answer, wrong = r.choice(["What is {} plus {}?", "{} + {} = ?", "Add {} and {}."]).format(a, b), f"{a} + {b} = {a + b}", f"{a} + {b} = {a + b + r.randint(2, 9)}"
        elif kind == "difference":
            a, b = max(a, b), min(a, b)
            ask, answer, wrong = r.choice(["What is {} minus {}?", "{} - {} = ?"]).format(a, b), f"{a} - {b} = {a - b}", f"{a} - {b} = {a + b + r.randint(1, 5)}"
        elif kind in ("larger", "smaller"):
            b = b if a != b else a + 1
            low, high = str(min(a, b)), str(max(a, b))
            ask = f"Which number is {kind}, {a} or {b}?"
            answer, wrong = (high, low) if kind == "larger" else (low, high)
        elif kind == "next":
            ask, answer, wrong = r.choice(["Which number comes after {}?", "Count on from {}."]).format(a), f"{a + 1}", f"{a + r.randint(3, 9)}"
        else:
            yes, no = f"Yes, {a} is even.", f"No, {a} is odd."
            ask, answer, wrong = f"Is {a} even?", *((yes, no) if a % 2 == 0 else (no, yes))
        made.append((f"numbers/{kind}", [("user", ask), ("assistant", answer)], wrong))
    return made


def yes_no(r, count):
    names = sorted((name, kind) for kind, members in KINDS.items() for name in members)
    made = []
    for _ in range(count):
        name, kind = r.choice(names)
        if r.random() < 0.5:
            answer, asked = f"Yes, {name} is {kind}.", kind
            wrong = f"No, {name} is {r.choice([k for k in sorted(KINDS) if k != kind])}."
        else:
            asked = r.choice([k for k in sorted(KINDS) if k != kind])
            answer, wrong = f"No, {name} is {kind}.", f"Yes, {name} is {asked}."
        made.append(("yes or no", [("user", f"Is {name} {asked}?"), ("assistant", answer)], wrong))
    return made


def lists(r, count):
    made = []
    for _ in range(count):
        name = r.choice(sorted(LISTS))
        number = r.randint(2, 4)
        items, others = LISTS[name][:number], LISTS[r.choice([n for n in sorted(LISTS) if n != name])][:number]
        if r.random() < 0.5:
            ask = r.choice(["Name {} {}.", "Tell me {} {}.", "Give me {} {}."]).format(NUMBERS[number], name)
            show = lambda i: ", ".join(i[:-1]) + " and " + i[-1] + "."
        else:
            ask = r.choice(["List {} {}.", "Write a list of {} {}."]).format(NUMBERS[number], name)
            show = lambda i: "\n".join(f"{n}. {item}" for n, item in enumerate(i, 1))
        made.append(("list", [("user", ask), ("assistant", show(items))], show(others)))
    return made


def several_turns(r, singles, count):
    """Two or three exchanges in one dialog; the last one is judged."""
    greeting = [m for t, m, _ in singles if t == "chat" and m[1][1].startswith(("Hello", "Good ", "I am well", "My name", "I am Herd"))]
    made = []
    for _ in range(count):
        task, messages, wrong = r.choice(singles)
        turns = list(r.choice(greeting)) + messages
        if r.random() < 0.3:
            turns += [("user", r.choice(["Thank you!", "Thanks."])), ("assistant", "You are welcome!")]
            wrong = None
        made.append((f"several turns/{task}", turns, wrong))
    return made


def steered(r, singles, count):
    """A system prompt that sets the style of the answer, as in SPEC POST-15."""
    plain = "You are Herd, a helpful assistant."
    styles = {
        "You always answer in capital letters.": str.upper,
        "You always answer in small letters.": str.lower,
        "You begin every answer with the word Well.": lambda t: "Well, " + t[0].lower() + t[1:] if not t.startswith("I ") else "Well, " + t,
        "You end every answer with the word Done.": lambda t: t + " Done.",
    }
    short = [s for s in singles if len(s[1][-1][1]) < 130 and s[0] in ("chat", "list", "yes or no") or s[0].startswith("numbers")]
    made = []
    for _ in range(count):
        task, messages, wrong = r.choice(short)
        if r.random() < 0.3:
            made.append((f"system/{task}", [("system", plain)] + messages, wrong))
        else:
            system = r.choice(sorted(styles))
            right = styles[system](messages[-1][1])
            made.append((f"style/{task}", [("system", system)] + messages[:-1] + [("assistant", right)], messages[-1][1] if right != messages[-1][1] else wrong))
    return made
