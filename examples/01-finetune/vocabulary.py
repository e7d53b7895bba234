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
        "router": ("router", "wifi router", "mesh router", "internet router", "wifi box"),
        "camera": ("camera", "security camera", "video camera", "outdoor camera", "doorbell camera"),
        "thermostat": ("thermostat", "heating thermostat", "temperature control", "room thermostat"),
        "speaker": ("speaker", "smart speaker", "bluetooth speaker", "voice speaker", "stereo"),
        "lock": ("lock", "door lock", "smart lock", "deadbolt", "key lock"),
        "vacuum": ("vacuum", "robot vacuum", "vacuum cleaner", "cleaning robot"),
        "watch": ("watch", "fitness watch", "smart watch", "wrist watch", "sports watch"),
        "printer": ("printer", "laser printer", "ink printer", "office printer", "document printer"),
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
        ),
        "login": (
            "I cannot sign in to the {p} app",
            "the password reset mail for the {p} never comes",
            "the {p} app says my account does not exist",
            "the login codes for the {p} are rejected",
            "my user name for the {p} is not accepted",
            "the {p} app logs me out every minute",
            "I lost access to my {p} account",
        ),
        "outage": (
            "the {p} has been offline since this morning",
            "the cloud service of the {p} is down",
            "the {p} lost its connection and does not come back",
            "no data from the {p} reaches your server",
            "the {p} cannot be reached from anywhere",
            "the {p} stopped responding after the last update",
            "the {p} keeps disconnecting from the network",
        ),
        "damage": (
            "the {p} arrived with a cracked case",
            "the screen of the {p} is broken",
            "a button fell off the {p}",
            "the battery of the {p} is swollen",
            "water got into the {p}",
            "the plastic of the {p} is bent and scratched",
            "a wire sticks out of the {p} and it smells burnt",
        ),
        "delivery": (
            "my {p} order has not been shipped",
            "the parcel with the {p} is late",
            "the tracking page of my {p} package never changes",
            "the courier left the {p} at the wrong address",
            "half of the {p} delivery is missing",
            "the {p} should have been delivered last week",
            "the driver could not find us and took the {p} away",
        ),
        "feature": (
            "please add a dark mode to the {p}",
            "it would be great if the {p} supported voice commands",
            "could the {p} get a weekly report",
            "I suggest a vacation schedule for the {p}",
            "we would like an option to export the {p} history",
            "the {p} should work with other brands",
            "a new feature for the {p}: show the weather",
        ),
        "security": (
            "somebody else controls my {p}",
            "a stranger got into my {p}",
            "the {p} was hacked",
            "private recordings from the {p} were leaked",
            "I found malware on the {p}",
            "the {p} sends my secrets to an unknown computer",
            "thieves could open the {p} without permission",
        ),
    },
    priorities={
        "low": (
            "there is no hurry",
            "take your time",
            "whenever you have a moment",
            "this is only a small thing",
            "it is not important, just a note",
        ),
        "normal": (
            "please help me with this",
            "I would like this solved this week",
            "an answer in a few days would be fine",
            "thanks for looking into it",
            "please tell me what to do",
        ),
        "high": (
            "I need this fixed today",
            "this is very important for us",
            "it blocks our work",
            "please treat this with priority",
            "we cannot finish our project because of it",
        ),
        "urgent": (
            "this is an emergency",
            "customers are leaving every minute",
            "act now",
            "people are in danger",
            "this is extremely urgent, call me at once",
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
