"""Words of the support tickets: one vocabulary for training, another for the held-out tickets.

`make_tickets.py` fills them into templates. No content word may stand in both halves (a test checks it),
so a model that only memorised words of the training tickets scores like one that never saw them.
"""

from __future__ import annotations

from dataclasses import dataclass

Phrases = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One half. `problems` hold {p} where the product's name goes; keys are the labels."""

    templates: tuple[str, ...]
    greetings: tuple[str, ...]
    details: tuple[str, ...]
    products: Phrases
    problems: Phrases
    priorities: Phrases


TRAIN = Vocabulary(
    templates=(
        "{greeting} {problem}. {priority}.",
        "{greeting} {detail}. {problem}. {priority}.",
        "{problem}. {priority}. {detail}.",
        "{greeting} {priority}. {problem}.",
        "{detail}. {problem}. {priority}.",
        "{greeting} {problem}, {priority}, {detail}.",
        "{priority}. {detail}. {problem}!",
        "{greeting} {priority} - {problem}.",
    ),
    greetings=("Hello,", "Hi team,", "Good day,", "Hey there,", "Hi,"),
    details=(
        "I bought it in {month}",
        "my order number is {number}",
        "I use it in the kitchen",
        "I live in {city}",
        "the model is {code}",
        "I already restarted it",
    ),
    products={
        "router": (
            *("router", "wifi router", "mesh router", "internet router", "wifi box"),
            *("access point", "network gateway", "dsl switch", "ethernet extender", "wlan station"),
        ),
        "camera": (
            *("camera", "security camera", "video camera", "outdoor camera", "doorbell camera"),
            *("camcorder", "baby monitor", "photo recorder", "night vision viewer", "dashcam"),
        ),
        "thermostat": (
            *("thermostat", "heating thermostat", "temperature control", "room thermostat"),
            *("furnace controller", "air conditioning panel", "warmth sensing knob", "heater display"),
        ),
        "speaker": (
            *("speaker", "smart speaker", "bluetooth speaker", "voice speaker", "stereo"),
            *("loudspeaker", "hifi system", "sound column", "party boombox", "headphone dock"),
        ),
        "lock": (
            *("lock", "door lock", "smart lock", "deadbolt", "key lock"),
            *("padlock", "door handle with code", "electronic door bar", "safe closure"),
        ),
        "vacuum": (
            *("vacuum", "robot vacuum", "vacuum cleaner", "cleaning robot"),
            *("carpet cleaner", "crumb collector", "dirt suction robot", "handheld cleaner"),
        ),
        "watch": (
            *("watch", "fitness watch", "smart watch", "wrist watch", "sports watch"),
            *("step counter", "heart rate band", "running tracker", "chronometer", "wearable clock"),
        ),
        "printer": (
            *("printer", "laser printer", "ink printer", "office printer", "document printer"),
            *("scanner", "fax unit", "paper press", "label plotter", "cartridge device"),
        ),
    },
    problems={
        "billing": (
            "I was charged twice for the {p}",
            "the invoice for my {p} shows the wrong amount",
            "my refund for the {p} has not arrived",
            "the discount was not applied to the {p}",
            "you took money for the {p} after I cancelled",
            "the subscription fee of the {p} went up without notice",
            "my credit card was debited for a {p} I never ordered",
            "please send back the cash I spent on the {p}",
            "the bill of the {p} has a tax mistake",
        ),
        "login": (
            "I cannot sign in to the {p} app",
            "the password reset mail for the {p} never comes",
            "the {p} app says my account does not exist",
            "the login codes for the {p} are rejected",
            "my user name for the {p} is not accepted",
            "the {p} app logs me out every minute",
            "I lost access to my {p} account",
            "the username and pin of the {p} do not work now",
            "verification for the {p} login does not succeed",
        ),
        "outage": (
            "the {p} has been offline since this morning",
            "the cloud service of the {p} is down",
            "the {p} lost its connection and does not come back",
            "no data from the {p} reaches your server",
            "the {p} cannot be reached from anywhere",
            "the {p} stopped responding after the last update",
            "the {p} keeps disconnecting from the network",
            "the {p} went dark last night",
            "since noon the {p} shows no sign of life",
        ),
        "damage": (
            "the {p} arrived with a cracked case",
            "the screen of the {p} is broken",
            "a button fell off the {p}",
            "the battery of the {p} is swollen",
            "water got into the {p}",
            "the plastic of the {p} is bent and scratched",
            "a wire sticks out of the {p} and it smells burnt",
            "somebody dropped the {p} and the lid came apart",
            "the edge of the {p} is chipped and it leaks",
        ),
        "delivery": (
            "my {p} order has not been shipped",
            "the parcel with the {p} is late",
            "the tracking page of my {p} package never changes",
            "the courier left the {p} at the wrong address",
            "half of the {p} delivery is missing",
            "the {p} should have been delivered last week",
            "the driver could not find us and took the {p} away",
            "the mail man lost the box with my {p}",
            "the {p} is stuck at the border with the transport company",
        ),
        "feature": (
            "please add a dark mode to the {p}",
            "it would be great if the {p} supported voice commands",
            "could the {p} get a weekly report",
            "I suggest a vacation schedule for the {p}",
            "we would like an option to export the {p} history",
            "the {p} should work with other brands",
            "a new feature for the {p}: show the weather",
            "have you thought of a {p} a german language pack",
            "maybe the {p} might learn to remind people of birthdays",
        ),
        "security": (
            "somebody else controls my {p}",
            "a stranger got into my {p}",
            "the {p} was hacked",
            "private recordings from the {p} were leaked",
            "I found malware on the {p}",
            "the {p} sends my secrets to an unknown computer",
            "thieves could open the {p} without permission",
            "an attacker watches us with the {p}",
            "a trojan took over the {p} and copied our files",
        ),
    },
    priorities={
        "low": (
            "there is no hurry",
            "take your time",
            "whenever you have a moment",
            "this is only a small thing",
            "it is not important, just a note",
            "no need to react soon",
            "it is okay if this takes long",
            "a tiny detail without pressure",
            "look at it next month",
            "this can sleep a while",
        ),
        "normal": (
            "please help me with this",
            "I would like this solved this week",
            "an answer in a few days would be fine",
            "thanks for looking into it",
            "please tell me what to do",
            "I hope to hear back from support",
            "could somebody assist me",
            "we need advice",
            "the usual support is enough",
            "help would be nice",
        ),
        "high": (
            "I need this fixed today",
            "this is very important for us",
            "it blocks our work",
            "please treat this with priority",
            "we cannot finish our project because of it",
            "this must be done by noon",
            "our team loses a lot of time with it",
            "the customer presentation starts soon",
            "it costs us money",
            "handle this as fast as you can",
        ),
        "urgent": (
            "this is an emergency",
            "customers are leaving every minute",
            "act now",
            "people are in danger",
            "this is extremely urgent, call me at once",
            "everything is on fire, hurry",
            "catastrophe, come right now",
            "there is danger for life and health",
            "we lose thousands each hour",
            "drop all other things this instant",
        ),
    },
)

HELD_OUT = Vocabulary(
    templates=(
        "{greeting} {problem}; {priority}.",
        "{problem}. {greeting} {priority}.",
        "{priority}: {problem}.",
        "{detail} - {problem}, {priority}.",
        "{priority}, {detail}. {problem}.",
    ),
    greetings=("Dear helpdesk,", "Greetings,", "Attention agents,", "Evening,"),
    details=(
        "reference {number}",
        "writing from {city}",
        "purchased around {month}",
        "serial {code}",
        "ours stands near the garage",
    ),
    products={
        "router": ("modem", "wireless repeater", "broadband hub"),
        "camera": ("webcam", "cctv lens", "surveillance sensor"),
        "thermostat": ("climate regulator", "radiator valve", "boiler dial"),
        "speaker": ("soundbar", "audio woofer", "music amplifier"),
        "lock": ("latch", "gate bolt", "entry keypad"),
        "vacuum": ("hoover", "floor sweeper", "dust sucker"),
        "watch": ("activity pedometer", "pulse wristband", "timepiece"),
        "printer": ("photocopier", "inkjet", "toner machine"),
    },
    problems={
        "billing": (
            "my bank statement lists a double payment for one {p}",
            "we were overbilled on the {p} plan",
            "I demand reimbursement for the {p}",
            "the receipt total exceeds the price of the {p}",
        ),
        "login": (
            "the {p} portal refuses my credentials",
            "I am shut out of my {p} profile",
            "authentication on the {p} website fails",
            "I forgot the passcode of the {p} dashboard",
        ),
        "outage": (
            "the {p} turned silent overnight and stays unreachable",
            "the {p} is dead, nothing gets through",
            "the {p} has zero signal",
            "your backend behind the {p} appears unavailable",
        ),
        "damage": (
            "the {p} has a smashed corner",
            "the hinge on the {p} snapped",
            "the glass front of the {p} shattered",
            "the housing of the {p} is dented and dripping",
        ),
        "delivery": (
            "the shipment with my {p} sits in a depot",
            "the postman never brought the {p}",
            "customs holds my {p} consignment",
            "the freight carrier mislaid our {p}",
        ),
        "feature": (
            "I wish the {p} had a nap timer",
            "any chance of Spanish menus on the {p}",
            "my idea is to let the {p} sync a calendar",
            "consider giving the {p} a vegetarian recipe function",
        ),
        "security": (
            "an intruder is steering my {p}",
            "I suspect a breach of the {p}",
            "criminals are spying through the {p}",
            "a virus infected the {p} and stole passwords",
        ),
    },
    priorities={
        "low": (
            "zero rush",
            "reply at your leisure",
            "trivial matter, it can wait",
            "purely minor",
        ),
        "normal": (
            "kindly advise",
            "some guidance is appreciated",
            "I await a regular response",
            "grateful for assistance",
        ),
        "high": (
            "the deadline is tomorrow",
            "our staff sits idle until it is repaired",
            "it seriously hurts business",
            "resolve it before tonight",
        ),
        "urgent": (
            "critical crisis, respond immediately",
            "lives are at risk",
            "every second counts",
            "we bleed revenue continuously",
        ),
    },
)
