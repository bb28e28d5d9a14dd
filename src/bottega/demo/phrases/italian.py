"""The demo's phrases in Italian, with placeholders for names, products, orders, towns and days."""

SYLLABLES = (
    "bra cor dan el fal gar lom ma ner or pal quar ros sel tar ur ven vil zan fio mon cas".split(),
    "a be di e fo ga li lo mi na o pe ri sa ti vo".split(),
)
TOWN_ENDINGS = "ago ate ello ignano ese olo asco engo".split()
NAME_ENDINGS = "a o ina io etta ino".split()
PRODUCTS = (
    "bollitore lume tappeto orologio vaso quaderno zaino ombrello specchio cuscino vassoio cappotto "
    "tostapane telefono tavolino portafoglio secchio libro cestino bicchiere"
).split()
COLOURS = "rosso blu verde nero bianco giallo grigio bruno".split()
DAYS = "lunedì martedì mercoledì giovedì venerdì sabato domenica".split()
MONTHS = ("gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre").split()
TRADES = "vasai tessitori fornai marinai orologiai giardinieri pittori fabbri".split()

OPENINGS = (
    "Buongiorno,",
    "Buonasera,",
    "Salve,",
    "Gentile negozio,",
    "Spett. assistenza,",
    "Ciao,",
    "Buongiorno, sono {name} di {town}.",
    "Salve, qui {name}.",
    "Mi chiamo {name} e vivo a {town}.",
    "Sono {name}.",
)
CLOSINGS = (
    "Grazie, {name}",
    "Mille grazie, {name}",
    "Vi prego di aiutarmi presto.",
    "Aspetto una risposta entro {day}.",
    "Cordiali saluti, {name}",
    "Un saluto da {town}, {name}",
    "Che cosa devo fare adesso?",
    "Rispondetemi, per favore.",
)
TICKETS = {
    "rimborso": (
        "vorrei indietro i soldi del {product}, ordine {order}.",
        "rimborsatemi l'ordine {order}, il {product} non mi serve più.",
        "ho rimandato il {product} lo scorso {day}, ma i soldi dell'ordine {order} non sono arrivati.",
        "quando mi ridarete quanto ho pagato per il {product} dell'ordine {order}?",
        "ho reso il {product} e aspetto ancora il rimborso dell'ordine {order}.",
        "potete restituirmi il prezzo del {product}? L'ordine è {order}.",
        "mi avete addebitato due volte il {product}, ordine {order}, ridatemi una delle due somme.",
        "il {product} dell'ordine {order} non fa per me, rivoglio il denaro.",
    ),
    "consegna": (
        "il mio {product} non è ancora arrivato, l'ordine è {order}.",
        "dov'è il mio pacco? Ho ordinato il {product} lo scorso {day}, ordine {order}.",
        "l'ordine {order} doveva essere qui {day}, e alla porta non c'è nessun {product}.",
        "il corriere non è mai passato con il {product}, ordine {order}.",
        "la pagina di tracciamento dell'ordine {order} è ferma da {day}, dov'è il {product}?",
        "aspetto da due settimane il {product}, ordine numero {order}.",
        "il {product} dell'ordine {order} è partito dal magazzino di {town}?",
        "potete dirmi in che giorno mi arriva il {product}? Ordine {order}.",
    ),
    "guasto": (
        "il {product} è arrivato rotto, ordine {order}.",
        "quando ho aperto la scatola dell'ordine {order} il {product} era crepato.",
        "il mio {product} ha un graffio profondo e la scatola era strappata, ordine {order}.",
        "il {product} ricevuto {day} non funziona affatto, ordine {order}.",
        "manca un pezzo del {product} e un altro è piegato, ordine {order}.",
        "l'ordine {order} è arrivato bagnato e il {product} è rovinato.",
        "dopo un giorno il {product} ha smesso di funzionare, l'ordine era {order}.",
        "il {product} dell'ordine {order} mi si è sfasciato in mano.",
    ),
    "cambio": (
        "vorrei cambiare il {product} con uno più grande, ordine {order}.",
        "posso cambiare il {product} dell'ordine {order} con un altro colore?",
        "il {product} è troppo piccolo, posso avere la misura dopo? Ordine {order}.",
        "mi avete mandato il {product} sbagliato, avevo scelto un altro modello, ordine {order}.",
        "preferisco quello {colour}, posso cambiare il {product} dell'ordine {order}?",
        "riprendetevi il {product} e mandatemene uno diverso, ordine {order}.",
        "si può scambiare il {product} dell'ordine {order} con uno più nuovo?",
        "il {product} dell'ordine {order} non sta bene nella stanza, vorrei cambiarlo.",
    ),
    "fattura": (
        "mi serve la fattura del {product}, ordine {order}.",
        "mandatemi la ricevuta dell'ordine {order}, il {product} è per l'ufficio.",
        "sul conto del {product} c'è l'indirizzo sbagliato, ordine {order}.",
        "la mia ditta vuole la partita IVA sulla fattura dell'ordine {order}, il {product}.",
        "non trovo lo scontrino del {product} comprato {day}, ordine {order}.",
        "potete correggere il nome sulla fattura dell'ordine {order}? È per il {product}.",
        "il contabile chiede una copia della fattura dell'ordine {order}, un {product}.",
        "nella scatola con il {product} non c'era la ricevuta, ordine {order}.",
    ),
    "profilo": (
        "non riesco a entrare per vedere l'ordine {order} con il {product}.",
        "ho dimenticato la password e voglio vedere l'ordine {order}, il {product}.",
        "la pagina dice che il mio profilo è bloccato da quando ho comprato il {product}, ordine {order}.",
        "come cambio l'indirizzo email del profilo? Il mio ultimo ordine è {order}, un {product}.",
        "chiudete il mio profilo, l'ultimo ordine era il {product}, numero {order}.",
        "non ricevo mai il codice per entrare, e voglio vedere l'ordine {order} con il {product}.",
        "il mio profilo mostra un altro nome sopra l'ordine {order}, il {product}.",
        "il sito mi butta fuori quando apro l'ordine {order}, il {product}, nel mio profilo.",
    ),
    "annullo": (
        "annullate l'ordine {order}, ho comprato il {product} per errore.",
        "non voglio più il {product}, fermate l'ordine {order} prima di spedirlo.",
        "posso ancora annullare il {product}? L'ordine {order} è di stamattina.",
        "ho ordinato due volte il {product}, cancellate l'ordine {order}.",
        "non spedite l'ordine {order}, ho trovato il {product} altrove.",
        "ho cambiato idea sul {product}, annullate {order} per favore.",
        "mio figlio ha ordinato il {product} senza chiedermelo, disdite l'ordine {order}.",
        "fermate il {product} dell'ordine {order}, parto da {town} {day}.",
    ),
    "garanzia": (
        "quanto dura la garanzia del {product} dell'ordine {order}?",
        "la garanzia copre il {product}? L'ho comprato due anni fa, ordine {order}.",
        "vorrei registrare il {product} per la garanzia, ordine {order}.",
        "il negozio di {town} dice che solo voi riparate il {product} in garanzia, ordine {order}.",
        "il mio {product} è ancora in garanzia? L'ordine era {order}.",
        "dove mando il {product} per una riparazione in garanzia? Ordine {order}.",
        "nella scatola non c'era il certificato di garanzia del {product}, ordine {order}.",
        "posso allungare la garanzia del {product}? Ordine {order}.",
    ),
}
REPLIES = {
    "rimborso": (
        "le ridiamo i soldi del {product}, ordine {order}, entro cinque giorni.",
        "il denaro del {product}, ordine {order}, è in viaggio.",
    ),
    "consegna": (
        "il {product} dell'ordine {order} è dal corriere e arriva {day}.",
        "abbiamo trovato il {product} dell'ordine {order}, sarà da lei {day}.",
    ),
    "guasto": (
        "le mandiamo gratis un nuovo {product} per l'ordine {order}.",
        "tenga pure il {product} rotto, quello nuovo dell'ordine {order} parte {day}.",
    ),
    "cambio": (
        "cambiamo volentieri il {product} dell'ordine {order}.",
        "ci mandi il {product} dell'ordine {order} e scelga quello che le piace.",
    ),
    "fattura": (
        "la fattura del {product}, ordine {order}, è nella sua posta.",
        "abbiamo corretto la fattura dell'ordine {order} per il {product}.",
    ),
    "profilo": (
        "il suo profilo è di nuovo aperto, e c'è l'ordine {order} con il {product}.",
        "le abbiamo mandato una nuova password, poi vedrà il {product} dell'ordine {order}.",
    ),
    "annullo": (
        "l'ordine {order} è annullato e il {product} resta da noi.",
        "abbiamo fermato in tempo il {product} dell'ordine {order}.",
    ),
    "garanzia": (
        "il {product} dell'ordine {order} è in garanzia per tre anni.",
        "la garanzia copre il {product} dell'ordine {order}, ce lo mandi a {town}.",
    ),
}
KIND = (
    ("Gentile {name}, grazie di averci scritto:", "Ci scusiamo per il disturbo."),
    ("Gentile {name}, siamo lieti di aiutarla:", "Ci scriva quando vuole."),
    ("Buongiorno {name}, grazie della pazienza:", "Le auguriamo una buona giornata."),
    ("Gentile {name}, ma certo:", "Grazie di avere scelto il nostro negozio."),
)
RUDE = (
    ("Senta {name}, ancora lei:", "Non ci disturbi più per queste cose."),
    ("{name}, doveva leggere le regole:", "Abbiamo cose più importanti da fare."),
    ("Ecco di nuovo {name} che si lamenta:", "La prossima volta compri altrove."),
    ("{name}, la colpa è tutta sua:", "Smetta di farci perdere tempo."),
)
DOCUMENTS = (
    "{town} sta sul fiume {river}. I suoi {trade} vendono ogni {day} sulla piazza del mercato, e un {product} di "
    "{town} è conosciuto in tutta la valle.",
    "In {month} i {trade} di {town} fanno festa. {name} porta un {product} {colour}, e {other} racconta di quando il "
    "fiume {river} salì sopra il ponte.",
    "{name} è di {town} e ha imparato dai {trade}. A vent'anni ha aperto una piccola bottega dove si trova ogni "
    "{product}, e {other} teneva i conti.",
    "La strada da {town} a {place} segue il {river}. Di {day} la corriera si ferma due volte, e salgono i {trade}.",
    "Il negozio ha aperto a {town} in {month}. Il primo {day} ha venduto un {product} a {name} e uno {colour} a "
    "{other}.",
    "Ogni {product} del negozio ha un numero. {name} lo scrive {day}, e {other} spedisce il pacco da {town} a {place}.",
)
HISTORY = (
    '{{"prodotto": "{product}", "ordine": "{order}"}}',
    "Ordine {order}: un {product} per {name} di {town}.",
    "{day}: {name} chiede dell'ordine {order}, il {product}.",
    "L'ordine {order} è pronto, il {product} va a {name}.",
    "Il {product} di {name}, ordine {order}, parte per {town}.",
    "{name} ha il {product}, l'ordine {order} è chiuso.",
    "Nota su {order}: a {name} piace il {product}.",
)
CLASSIFY, EXTRACT, ANSWER = "Quale tema? {ticket}", "Quali campi? {ticket}", "Rispondi: {ticket}"
FIELDS = {"product": "prodotto", "order": "ordine"}
PLAIN = "Messaggio: {ticket}\nTema:"
CHOICES = "Uno di questi temi: {labels}.\n"
