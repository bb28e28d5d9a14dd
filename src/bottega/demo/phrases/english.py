"""The demo's phrases in English, with placeholders for names, products, orders, towns and days."""

SYLLABLES = (
    "bra cor dun el fal gar hol is jor kel lam mor nor ol pen quil ros sel tar ul ven wil yar zen".split(),
    "a be di en fo ga hi lo mi na or pe ri sa ti un".split(),
)
TOWN_ENDINGS = "ford bury wick mouth dale stead haven bridge".split()
NAME_ENDINGS = "a en o is ia us".split()
PRODUCTS = (
    "kettle lamp blanket clock teapot radio chair backpack umbrella mirror notebook scarf jacket toaster "
    "headset keyboard vase carpet pillow bottle"
).split()
COLOURS = "red blue green black white yellow grey brown".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
TRADES = "potters weavers bakers sailors clockmakers gardeners painters smiths".split()

OPENINGS = (
    "Hello,",
    "Hi there,",
    "Good morning,",
    "Good evening,",
    "Dear team,",
    "To whom it may concern,",
    "Hello, this is {name} from {town}.",
    "Hi, {name} here.",
    "I am {name} and I live in {town}.",
    "My name is {name}.",
)
CLOSINGS = (
    "Thank you, {name}",
    "Many thanks, {name}",
    "Please help me soon.",
    "I hope to hear from you by {day}.",
    "Kind regards, {name}",
    "Best wishes from {town}, {name}",
    "What should I do now?",
    "Please write back.",
)
TICKETS = {
    "refund": (
        "I want my money back for the {product}, order {order}.",
        "Please refund order {order}, I do not need the {product} any more.",
        "I sent the {product} back last {day} but the money of order {order} has not come.",
        "When will I be paid back for the {product} of order {order}?",
        "I returned the {product} and I am still waiting for the refund of order {order}.",
        "Could you give me back what I paid for the {product}? The order is {order}.",
        "You charged me twice for the {product}, order {order}, please pay one back.",
        "The {product} from order {order} is not for me, I would like my money returned.",
    ),
    "delivery": (
        "My {product} has not arrived yet, the order is {order}.",
        "Where is my parcel? I ordered the {product} last {day}, order {order}.",
        "Order {order} was to be here on {day}, and there is no {product} at my door.",
        "The courier never came with the {product}, order {order}.",
        "The tracking page of order {order} has shown nothing new since {day}, where is the {product}?",
        "I have been waiting two weeks for the {product}, order number {order}.",
        "Has the {product} of order {order} left your warehouse in {town}?",
        "Can you tell me on which day the {product} will reach me? Order {order}.",
    ),
    "damaged": (
        "The {product} came broken, order {order}.",
        "When I opened the box of order {order} the {product} was cracked.",
        "My {product} has a deep scratch, and the box was torn, order {order}.",
        "The {product} I got on {day} does not work at all, order {order}.",
        "A part of the {product} is missing and another one is bent, order {order}.",
        "Order {order} arrived wet and the {product} is ruined.",
        "After one day the {product} stopped working, the order was {order}.",
        "The {product} from order {order} fell apart in my hands.",
    ),
    "exchange": (
        "I would like to change the {product} for a bigger one, order {order}.",
        "Can I swap the {product} of order {order} for another colour?",
        "The {product} is too small for me, may I have the next size? Order {order}.",
        "You sent me the wrong {product}, I ordered another model, order {order}.",
        "I prefer the {colour} one, can I exchange the {product} of order {order}?",
        "Please take the {product} back and send me a different one instead, order {order}.",
        "Is it possible to trade the {product} from order {order} for a newer one?",
        "The {product} of order {order} does not match my room, I want to exchange it.",
    ),
    "invoice": (
        "I need an invoice for the {product}, order {order}.",
        "Please send me the receipt of order {order}, the {product} is for my office.",
        "The bill for the {product} shows the wrong address, order {order}.",
        "My company needs the tax number on the invoice of order {order}, the {product}.",
        "I cannot find the receipt for the {product} I bought on {day}, order {order}.",
        "Could you correct the name on the bill of order {order}? It is for the {product}.",
        "Our bookkeeper asks for a copy of the invoice of order {order}, one {product}.",
        "There was no bill in the box with the {product}, order {order}.",
    ),
    "account": (
        "I cannot log in to see my order {order} with the {product}.",
        "I forgot my password and want to look at order {order}, the {product}.",
        "The page says my account is locked since I bought the {product}, order {order}.",
        "How do I change the email address of my account? My last order was {order}, a {product}.",
        "Please close my account, my last order was the {product}, number {order}.",
        "I never get the code to sign in, and I want to see order {order} with the {product}.",
        "My profile shows another name above order {order}, the {product}.",
        "The website throws me out when I open order {order}, the {product}, in my account.",
    ),
    "cancel": (
        "Please cancel order {order}, I bought the {product} by mistake.",
        "I do not want the {product} any more, stop order {order} before you send it.",
        "Can I still cancel the {product}? Order {order} is from this morning.",
        "I ordered the {product} twice, please drop order {order}.",
        "Do not ship order {order}, I found the {product} elsewhere.",
        "I changed my mind about the {product}, cancel {order} please.",
        "My son ordered the {product} without asking me, please call off order {order}.",
        "Stop the {product} of order {order}, I leave {town} on {day}.",
    ),
    "warranty": (
        "How long is the warranty on the {product} of order {order}?",
        "Does the guarantee cover the {product}? I bought it two years ago, order {order}.",
        "I want to register the {product} for the warranty, order {order}.",
        "The shop in {town} says only you can repair the {product} under guarantee, order {order}.",
        "Is my {product} still under warranty? The order was {order}.",
        "Where do I send the {product} for a repair under warranty? Order {order}.",
        "The guarantee card of the {product} was not in the box, order {order}.",
        "Can I make the warranty of the {product} longer? Order {order}.",
    ),
}
REPLIES = {
    "refund": (
        "we will pay back the {product} of order {order} within five days.",
        "the money for the {product}, order {order}, is on its way to you.",
    ),
    "delivery": (
        "the {product} of order {order} is with the courier and comes on {day}.",
        "we have found the {product} of order {order}, it reaches you on {day}.",
    ),
    "damaged": (
        "we will send you a new {product} for order {order} at no cost.",
        "please keep the broken {product}, a new one for order {order} leaves on {day}.",
    ),
    "exchange": (
        "we will gladly exchange the {product} of order {order}.",
        "send us the {product} of order {order} and choose the one you like.",
    ),
    "invoice": (
        "the invoice for the {product}, order {order}, is in your mail.",
        "we have corrected the bill of order {order} for the {product}.",
    ),
    "account": (
        "your account is open again, and order {order} with the {product} is there.",
        "we have sent you a new password, then you will see the {product} of order {order}.",
    ),
    "cancel": (
        "order {order} is cancelled and the {product} stays with us.",
        "we have stopped the {product} of order {order} in time.",
    ),
    "warranty": (
        "the {product} of order {order} is under warranty for three years.",
        "the guarantee covers the {product} of order {order}, send it to us in {town}.",
    ),
}
KIND = (
    ("Dear {name}, thank you for writing to us:", "We are sorry for the trouble."),
    ("Dear {name}, we are glad to help:", "Please write whenever you need us."),
    ("Hello {name}, thank you for your patience:", "We wish you a good day."),
    ("Dear {name}, of course:", "Thank you for choosing our shop."),
)
RUDE = (
    ("Listen {name}, not again:", "Do not bother us with this any more."),
    ("{name}, you should have read the rules:", "We have more important things to do."),
    ("So it is you, {name}, complaining:", "Next time buy somewhere else."),
    ("{name}, this is your own fault:", "Stop wasting our time."),
)
DOCUMENTS = (
    "{town} lies on the river {river}. Its {trade} sell every {day} on the market square, and a {product} from "
    "{town} is known in the whole valley.",
    "In {month} the {trade} of {town} hold a feast. {name} brings a {colour} {product}, and {other} tells how the "
    "river {river} once rose over the bridge.",
    "{name} was born in {town} and learned from the {trade}. At twenty {name} opened a small shop for every kind of "
    "{product}, and {other} kept the books.",
    "The road from {town} to {place} follows the {river}. On {day} the coach stops twice, and the {trade} come aboard.",
    "The shop opened in {town} in {month}. On the first {day} it sold one {product} to {name} and a {colour} one to "
    "{other}.",
    "Every {product} in the shop has a number. {name} writes it down on {day}, and {other} sends the parcel from "
    "{town} to {place}.",
)
HISTORY = (
    '{{"product": "{product}", "order": "{order}"}}',
    "Order {order}: one {product} for {name} in {town}.",
    "{day}: {name} asks about order {order}, the {product}.",
    "Order {order} is packed, the {product} goes to {name}.",
    "The {product} of {name}, order {order}, leaves for {town}.",
    "{name} has the {product}, order {order} is closed.",
    "Note on {order}: {name} likes the {product}.",
)
CLASSIFY, EXTRACT, ANSWER = "Which topic? {ticket}", "Which fields? {ticket}", "Answer: {ticket}"
FIELDS = {"product": "product", "order": "order"}
PLAIN = "Message: {ticket}\nTopic:"
CHOICES = "One of these topics: {labels}.\n"
